//! The dispatcher step by step.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::dispatch::{Budget, Class, Dispatcher, Next, Outcome, Permit, Refused, Request};

pub(super) fn budget(rate: f64, slots: u32) -> Budget {
    Budget {
        rate: Some(rate),
        burst: 1.0,
        slots: NonZeroU32::new(slots).expect("not 0"),
        places: NonZeroU32::new(1000).expect("not 0"),
        max_queue_wait: Duration::from_mins(1),
    }
}

pub(super) fn request(class: Class, caller: u64, connection: u64) -> Request {
    Request {
        class,
        caller,
        connection,
        latest_start: None,
    }
}

/// A dispatcher without tokens, and the permit of the lookup that took the last one.
fn spent(budget: &Budget, now: Instant) -> (Dispatcher<u32>, Permit) {
    let mut dispatcher = Dispatcher::new(budget, now);
    let first = request(Class::Refresh, 0, 0);
    dispatcher.admit(&first, 0, now, 0.0).expect("nothing is in line");
    let (_, permit) = start(&mut dispatcher, now).expect("there is a token");
    (dispatcher, permit)
}

fn start(dispatcher: &mut Dispatcher<u32>, now: Instant) -> Option<(u32, Permit)> {
    match dispatcher.next(now) {
        Next::Start { payload, permit, .. } => Some((payload, permit)),
        Next::Expired { .. } | Next::WaitUntil(_) | Next::Idle => None,
    }
}

/// The lookups in the order in which they go out, one a second.
fn order(dispatcher: &mut Dispatcher<u32>, mut now: Instant) -> Vec<u32> {
    let mut order = Vec::new();
    while dispatcher.queued() > 0 {
        now += Duration::from_secs(1);
        let (payload, permit) = start(dispatcher, now).expect("a token a second");
        dispatcher.finished(permit, now, Outcome::Completed);
        order.push(payload);
    }
    order
}

#[test]
fn callers_take_turns_and_connections_take_their_caller_s_turns() {
    let now = Instant::now();
    let (mut dispatcher, _permit) = spent(&budget(1.0, 9), now);
    // Caller 1 has two lookups on connection 1 and two on 2; caller 2 has two.
    for (payload, caller, connection) in [
        (111, 1, 1),
        (112, 1, 1),
        (121, 1, 2),
        (122, 1, 2),
        (211, 2, 1),
        (212, 2, 1),
    ] {
        let request = request(Class::AwaitedKnown, caller, connection);
        dispatcher
            .admit(&request, payload, now, 0.0)
            .expect("there is room");
    }
    assert_eq!(order(&mut dispatcher, now), [111, 211, 121, 212, 112, 122]);
}

#[test]
fn a_class_that_was_idle_has_saved_up_no_turns() {
    let start_of_all = Instant::now();
    let mut now = start_of_all;
    let (mut dispatcher, _permit) = spent(&budget(1.0, 9), now);
    let poll = request(Class::Poll, 1, 1);
    for payload in 0..500 {
        now += Duration::from_secs(1);
        dispatcher.admit(&poll, payload, now, 0.0).expect("there is room");
        let (_, permit) = start(&mut dispatcher, now).expect("a token a second");
        dispatcher.finished(permit, now, Outcome::Completed);
    }
    let awaited = request(Class::AwaitedUnknown, 2, 1);
    for payload in 0..8 {
        dispatcher.admit(&poll, payload, now, 0.0).expect("there is room");
        dispatcher
            .admit(&awaited, 100 + payload, now, 0.0)
            .expect("there is room");
    }
    // Their shares are equal.
    let polls = order(&mut dispatcher, now)[..8]
        .iter()
        .filter(|payload| **payload < 100)
        .count();
    assert!((3..=5).contains(&polls), "{polls}");
}

#[test]
fn a_cancelled_lookup_leaves_its_place_and_nothing_else() {
    let now = Instant::now();
    let (mut dispatcher, _permit) = spent(&budget(1.0, 9), now);
    let tickets = [1, 2, 3].map(|payload| {
        let request = request(Class::AwaitedKnown, 1, 1);
        dispatcher
            .admit(&request, payload, now, 0.0)
            .expect("there is room")
    });
    assert_eq!(dispatcher.cancel(tickets[1]), Some(2));
    assert_eq!(dispatcher.cancel(tickets[1]), None, "a ticket is of use once");
    let request = request(Class::AwaitedKnown, 1, 1);
    let another = dispatcher.admit(&request, 4, now, 0.0).expect("there is room");
    assert_ne!(another, tickets[1]);
    assert_eq!(order(&mut dispatcher, now), [1, 3, 4]);
    let counters = dispatcher.counters(Class::AwaitedKnown);
    assert_eq!((counters.queued, counters.started, counters.cancelled), (0, 3, 1));
    assert_eq!(counters.waited, Duration::from_secs(1 + 2 + 3));
}

#[test]
fn nobody_holds_a_token_while_it_waits_for_a_slot() {
    let start_of_all = Instant::now();
    let (mut dispatcher, permit) = spent(&budget(1.0, 1), start_of_all);
    let class = request(Class::AwaitedKnown, 1, 1);
    dispatcher
        .admit(&class, 1, start_of_all, 0.0)
        .expect("there is room");
    let later = start_of_all + Duration::from_secs(5);
    assert!(
        matches!(dispatcher.next(later), Next::WaitUntil(_)),
        "the slot is taken"
    );
    dispatcher.finished(permit, later, Outcome::Completed);
    let (_, permit) = start(&mut dispatcher, later).expect("slot and token");
    dispatcher.finished(permit, later, Outcome::Completed);
    // The bucket holds one token, which was used now, not four seconds ago.
    dispatcher.admit(&class, 2, later, 0.0).expect("there is room");
    let Next::WaitUntil(until) = dispatcher.next(later) else {
        panic!("there is no token")
    };
    assert_eq!(until, later + Duration::from_secs(1));
}

#[test]
fn a_permit_that_was_not_used_gives_token_and_slot_back() {
    let now = Instant::now();
    let (mut dispatcher, permit) = spent(&budget(1.0, 1), now);
    let class = request(Class::AwaitedKnown, 1, 1);
    dispatcher.admit(&class, 1, now, 0.0).expect("there is room");
    assert!(start(&mut dispatcher, now).is_none());
    dispatcher.return_unused(permit);
    assert!(start(&mut dispatcher, now).is_some());
    assert_eq!(dispatcher.counters(Class::Refresh).returned, 1);
}

#[test]
fn a_second_attempt_takes_a_token_of_its_own() {
    let now = Instant::now();
    let (mut dispatcher, permit) = spent(&budget(1.0, 9), now);
    let second = Duration::from_secs(1);
    assert_eq!(dispatcher.try_retry(&permit, now), Err(now + second));
    assert_eq!(dispatcher.try_retry(&permit, now + second), Ok(()));
    let class = request(Class::AwaitedKnown, 1, 1);
    dispatcher
        .admit(&class, 1, now + second, 0.0)
        .expect("there is room");
    assert!(start(&mut dispatcher, now + second).is_none());
    assert!(start(&mut dispatcher, now + 2 * second).is_some());
}

#[test]
fn a_poll_that_a_caller_comes_to_wait_for_takes_the_caller_s_turn() {
    let now = Instant::now();
    let (mut dispatcher, _permit) = spent(&budget(1.0, 9), now);
    let mut tickets = Vec::new();
    for payload in 1..=10 {
        let poll = request(Class::Poll, 1, 1);
        tickets.push(dispatcher.admit(&poll, payload, now, 0.0).expect("there is room"));
    }
    let awaited = request(Class::AwaitedKnown, 2, 1);
    dispatcher
        .reclassify(tickets[9], &awaited, now, 0.0)
        .expect("there is room");
    assert_eq!(dispatcher.counters(Class::AwaitedKnown).queued, 1);
    // A refresh of an awaited lookup changes nothing.
    let refresh = request(Class::Refresh, 3, 1);
    dispatcher
        .reclassify(tickets[9], &refresh, now, 0.0)
        .expect("as it was");
    assert_eq!(dispatcher.counters(Class::AwaitedKnown).queued, 1);
    assert_eq!(order(&mut dispatcher, now)[..2], [10, 1]);
}

#[test]
fn a_poll_whose_new_caller_cannot_wait_long_enough_stays_a_poll() {
    let now = Instant::now();
    let (mut dispatcher, _permit) = spent(&budget(0.1, 9), now);
    let poll = request(Class::Poll, 1, 1);
    let ticket = dispatcher.admit(&poll, 1, now, 0.0).expect("there is room");
    let hasty = Request {
        latest_start: Some(now + Duration::from_secs(2)),
        ..request(Class::AwaitedKnown, 2, 1)
    };
    let Refused { retry_after, .. } = dispatcher
        .reclassify(ticket, &hasty, now, 0.0)
        .expect_err("a turn is 10 s");
    assert!(retry_after >= Duration::from_secs(8), "{retry_after:?}");
    assert_eq!(dispatcher.counters(Class::Poll).queued, 1);
}

#[test]
fn what_is_of_no_use_any_more_is_dropped_and_its_caller_told() {
    let now = Instant::now();
    let seconds = Duration::from_secs;
    let (mut dispatcher, _permit) = spent(&budget(1.0, 1), now);
    let until = |latest| Request {
        latest_start: Some(now + seconds(latest)),
        ..request(Class::AwaitedKnown, 1, 1)
    };
    dispatcher.admit(&until(20), 1, now, 0.0).expect("there is room");
    let joined = dispatcher.admit(&until(21), 2, now, 0.0).expect("there is room");
    // Another caller waits longer for the second one.
    dispatcher
        .reclassify(joined, &until(40), now, 0.0)
        .expect("as it was");
    // The only fetch hangs.
    assert!(matches!(dispatcher.next(now + seconds(19)), Next::WaitUntil(_)));
    let Next::Expired { payload, refused, .. } = dispatcher.next(now + seconds(25)) else {
        panic!("its time is over")
    };
    assert_eq!(payload, 1);
    assert!(refused.retry_after > Duration::ZERO);
    assert!(matches!(dispatcher.next(now + seconds(25)), Next::WaitUntil(_)));
    assert_eq!(dispatcher.queued(), 1);
    assert!(matches!(
        dispatcher.next(now + seconds(45)),
        Next::Expired { payload: 2, .. }
    ));
    assert!(matches!(dispatcher.next(now + seconds(45)), Next::Idle));
    assert_eq!(dispatcher.counters(Class::AwaitedKnown).expired, 2);
}

#[test]
fn a_lookup_that_cannot_be_of_use_is_refused_unless_it_can_go_out_at_once() {
    let now = Instant::now();
    let (mut dispatcher, permit) = spent(&budget(1.0, 9), now);
    let late = Request {
        latest_start: Some(now),
        ..request(Class::AwaitedKnown, 1, 1)
    };
    assert!(dispatcher.admit(&late, 1, now, 0.0).is_err(), "there is no token");
    dispatcher.return_unused(permit);
    dispatcher
        .admit(&late, 1, now, 0.0)
        .expect("it costs nobody anything");
    assert!(start(&mut dispatcher, now + Duration::from_millis(1)).is_some());
}

#[test]
fn a_source_that_has_closed_is_waited_for_by_nobody() {
    let now = Instant::now();
    let (mut dispatcher, _permit) = spent(&budget(1.0, 9), now);
    for payload in 1..=5 {
        let request = request(Class::Poll, u64::from(payload), 1);
        dispatcher
            .admit(&request, payload, now, 0.0)
            .expect("there is room");
    }
    let mut drained: Vec<_> = std::iter::from_fn(|| dispatcher.drain())
        .map(|(_, payload)| payload)
        .collect();
    drained.sort_unstable();
    assert_eq!(drained, [1, 2, 3, 4, 5]);
    assert!(matches!(dispatcher.next(now), Next::Idle));
}

#[test]
fn a_hundred_thousand_in_line_go_out_one_by_one() {
    let mut now = Instant::now();
    let budget = Budget {
        rate: Some(100_000.0),
        burst: 1.0,
        slots: NonZeroU32::new(u32::MAX).expect("not 0"),
        places: NonZeroU32::new(u32::MAX).expect("not 0"),
        max_queue_wait: Duration::from_mins(1),
    };
    let mut dispatcher = Dispatcher::new(&budget, now);
    for payload in 0..100_000 {
        let request = request(Class::AwaitedKnown, u64::from(payload % 1000), 0);
        dispatcher
            .admit(&request, payload, now, 0.0)
            .expect("a second's worth");
    }
    for _ in 0..100_000 {
        now += Duration::from_micros(11);
        assert!(start(&mut dispatcher, now).is_some());
    }
    assert!(matches!(dispatcher.next(now), Next::Idle));
}
