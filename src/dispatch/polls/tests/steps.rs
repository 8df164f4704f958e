//! The planner step by step.

use super::*;

/// The polls until `end`, with their times. Every poll finds one upload a day.
fn polls(planner: &mut Planner<u32>, epoch: Instant, from: f64, end: f64) -> Vec<(u32, f64)> {
    let (mut polls, mut now) = (Vec::new(), from);
    while now < end {
        let at = epoch + Duration::from_secs_f64(now);
        match planner.next(at) {
            Next::Poll(key) => {
                polls.push((key, now));
                planner.set_rate(key, 1.0 / DAY, at);
            }
            Next::WaitUntil(until) => now = until.duration_since(epoch).as_secs_f64() + 1e-9,
            Next::Idle => break,
        }
    }
    polls
}

#[test]
fn new_watches_are_polled_at_the_rate_and_in_turn_of_their_callers() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    (0..600).for_each(|key| planner.insert(key, 1));
    let first = polls(&mut planner, epoch, 0.0, 10.0);
    assert!((195..=202).contains(&first.len()), "{}", first.len());
    // Another caller's three channels do not wait for the remaining 400.
    (1000..1003).for_each(|key| planner.insert(key, 2));
    let second = polls(&mut planner, epoch, 10.0, 33.0);
    for key in 1000..1003 {
        let (_, at) = second
            .iter()
            .find(|(polled, _)| *polled == key)
            .expect("it is polled");
        assert!(*at < 10.5, "{at}");
    }
    let mut keys: Vec<u32> = first.iter().chain(&second).map(|(key, _)| *key).collect();
    keys.sort_unstable();
    assert!(
        keys.iter().copied().eq((0..600).chain(1000..1003)),
        "each of them once"
    );
}

#[test]
fn new_watches_and_old_ones_share_the_budget() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    (0..2000).for_each(|key| planner.insert(key, 1));
    polls(&mut planner, epoch, 0.0, 600.0);
    (2000..2600).for_each(|key| planner.insert(key, 2));
    let first = polls(&mut planner, epoch, 600.0, 633.0);
    let new = first.iter().filter(|(key, _)| *key >= 2000).count();
    assert!(new >= 600, "{new}");
    // Then each caller gets half of the budget, and all of it is used.
    polls(&mut planner, epoch, 633.0, 1000.0);
    let after = polls(&mut planner, epoch, 1000.0, 2000.0);
    let new = after.iter().filter(|(key, _)| *key >= 2000).count();
    assert!((8000..=11_000).contains(&new), "{new}");
    assert!(after.len() > 19_500, "the budget is used: {}", after.len());
}

#[test]
fn ten_thousand_channels_of_one_caller_do_not_slow_down_ten_of_another() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    (0..10_000).for_each(|key| planner.insert(key, 1));
    (20_000..20_010).for_each(|key| planner.insert(key, 2));
    polls(&mut planner, epoch, 0.0, 1500.0);
    let every = planner.interval(20_000).expect("it is watched").as_secs_f64();
    assert!(every < 60.1, "{every}");
    let others = planner.interval(0).expect("it is watched").as_secs_f64();
    assert!((500.0..520.0).contains(&others), "{others}");
    let later = polls(&mut planner, epoch, 1500.0, 2100.0);
    let of_ten = later.iter().filter(|(key, _)| *key >= 20_000).count();
    assert!(
        (90..=110).contains(&of_ten),
        "ten a minute for ten minutes: {of_ten}"
    );
    // A channel that both watch is worth as much as one that only the modest caller watches.
    planner.insert(5, 2);
    polls(&mut planner, epoch, 2100.0, 2300.0);
    assert!(planner.interval(5).expect("it is watched").as_secs_f64() < 66.0);
}

#[test]
fn a_failure_s_retry_after_is_heeded() {
    let epoch = Instant::now();
    let at = |seconds| epoch + Duration::from_secs(seconds);
    let mut planner = Planner::new(limits(20.0), epoch);
    for key in [0, 2, 3] {
        planner.insert(key, 1);
        assert_eq!(
            planner.next(epoch),
            if key < 3 {
                Next::Poll(key)
            } else {
                Next::WaitUntil(epoch + Duration::from_millis(50))
            }
        );
    }
    planner.failed(0, PollFailure::Other, Some(Duration::from_secs(500)), at(1));
    planner.set_rate(2, 1.0 / DAY, at(1));
    let polls = polls(&mut planner, epoch, 2.0, 7300.0);
    let of = |key| {
        polls
            .iter()
            .filter(|(polled, _)| *polled == key)
            .map(|(_, at)| *at)
            .collect::<Vec<_>>()
    };
    assert!(of(0)[0] >= 501.0 && of(0)[0] < 510.0, "{:?}", of(0));
    assert!(of(2).len() > 100);
}

#[test]
fn a_channel_that_is_not_found_backs_off_to_the_longest_interval_until_it_is_found() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    planner.insert(1, 1);
    let (mut now, mut polled) = (0.0, Vec::new());
    while polled.len() < 10 {
        let at = epoch + Duration::from_secs_f64(now);
        match planner.next(at) {
            Next::Poll(key) => {
                polled.push(now);
                let told = at + Duration::from_millis(20);
                planner.failed(key, PollFailure::NotFound, None, told);
                planner.failed(key, PollFailure::NotFound, None, told);
            }
            Next::WaitUntil(until) => now = until.duration_since(epoch).as_secs_f64() + 1e-9,
            Next::Idle => panic!("it is watched"),
        }
    }
    let pauses = polled.windows(2).map(|polls| polls[1] - polls[0]);
    for (pause, expected) in pauses.zip([60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]) {
        assert!(
            (0.89..1.11).contains(&(pause / expected)),
            "{pause} and not {expected}"
        );
    }
    let found = epoch + Duration::from_secs_f64(now + 1.0);
    planner.set_rate(1, 1.0 / DAY, found);
    assert!(planner.interval(1).expect("it is watched").as_secs_f64() < 60.1);
    planner.failed(1, PollFailure::NotFound, None, found + Duration::from_secs(1));
    assert!(
        planner.interval(1).expect("it is watched").as_secs_f64() < 60.1,
        "it was found"
    );
}

#[test]
fn made_up_channels_cost_a_few_polls_and_then_one_an_hour() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    (0..1000).for_each(|key| planner.insert(key, 1));
    (5000..5100).for_each(|key| planner.insert(key, 2));
    let (mut now, mut made_up) = (0.0, 0);
    while now < 3.0 * 3600.0 {
        let at = epoch + Duration::from_secs_f64(now);
        match planner.next(at) {
            Next::Poll(key) if key < 1000 => {
                made_up += 1;
                planner.failed(key, PollFailure::NotFound, None, at + Duration::from_millis(20));
            }
            Next::Poll(key) => planner.set_rate(key, 1.0 / DAY, at),
            Next::WaitUntil(until) => now = until.duration_since(epoch).as_secs_f64() + 1e-9,
            Next::Idle => panic!("channels are watched"),
        }
    }
    assert!((5000..12_000).contains(&made_up), "{made_up}");
    assert!(planner.interval(5000).expect("it is watched").as_secs_f64() < 60.1);
}

#[test]
fn after_a_halt_all_goes_on_as_if_it_had_not_been() {
    let mut rng = Rng::with_seed(8);
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    let rates = rates(5000, 2.0, &mut rng);
    let at = |now: f64| epoch + Duration::from_secs_f64(now);
    for (key, rate) in (0..).zip(&rates) {
        planner.insert(key, 1);
        planner.set_rate(key, *rate, epoch);
    }
    let busiest = (0..5000_u32)
        .max_by(|a, b| rates[*a as usize].total_cmp(&rates[*b as usize]))
        .expect("some");
    let mut now = 0.0;
    let mut halted = false;
    let mut after = Vec::new();
    while now < 9000.0 {
        if now > 3600.0 && !halted {
            halted = true;
            now += 1800.0;
        }
        match planner.next(at(now)) {
            Next::Poll(key) => {
                if halted && key == busiest {
                    after.push(now);
                }
                planner.set_rate(key, rates[key as usize], at(now));
            }
            Next::WaitUntil(until) => now = until.duration_since(epoch).as_secs_f64() + 1e-9,
            Next::Idle => panic!("channels are watched"),
        }
    }
    // Within a minute, and then every minute, while 5,000 are overdue.
    assert!(after[0] < 5480.0, "{}", after[0]);
    assert!(after[10] < after[0] + 750.0, "{after:?}");
}

#[test]
fn a_channel_that_nobody_watches_any_more_is_forgotten() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    planner.insert(1, 1);
    planner.insert(1, 2);
    planner.insert(1, 2);
    planner.insert(2, 1);
    planner.remove(1, 3);
    planner.remove(1, 1);
    planner.remove(1, 2);
    assert_eq!(planner.len(), 2);
    planner.remove(1, 2);
    assert_eq!(planner.len(), 1);
    assert_eq!(polls(&mut planner, epoch, 0.0, 30.0), [(2, 0.0)]);
    // Later reports change nothing.
    planner.set_rate(1, 1.0, epoch);
    planner.failed(1, PollFailure::Other, None, epoch);
    planner.remove(2, 1);
    assert_eq!(planner.next(epoch), Next::Idle);
    assert!(planner.is_empty() && planner.callers.is_empty() && planner.agenda.is_empty());
    assert!(planner.first.is_empty());
    assert_eq!(planner.histogram.total(), 0);
}

#[test]
fn a_smaller_budget_is_kept_at_once() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(20.0), epoch);
    (0..1000).for_each(|key| planner.insert(key, 1));
    polls(&mut planner, epoch, 0.0, 200.0);
    planner.set_budget(2.0, epoch + Duration::from_secs(200));
    let after = polls(&mut planner, epoch, 200.0, 300.0).len();
    // All were polled within the last minute, and none is polled before the minute is over.
    assert!((70..=202).contains(&after), "{after}");
    planner.set_budget(20.0, epoch + Duration::from_mins(5));
    let after = polls(&mut planner, epoch, 300.0, 600.0).len();
    assert!(after > 4000, "a thousand a minute: {after}");
}

#[test]
fn a_channel_takes_little_memory() {
    // 16 bytes in the agenda, 16 in the index with a key of 8; either may have as much capacity to spare.
    assert!(
        size_of::<Option<Channel<u64>>>() <= 112,
        "{}",
        size_of::<Option<Channel<u64>>>()
    );
}

#[test]
fn a_poll_that_got_no_turn_comes_again_when_it_was_told_to() {
    let epoch = Instant::now();
    let at = |seconds| epoch + Duration::from_secs(seconds);
    let mut planner = Planner::new(limits(20.0), epoch);
    planner.insert(1, 1);
    assert_eq!(planner.next(epoch), Next::Poll(1));
    planner.refused(1, Duration::from_secs(7), epoch);
    assert_eq!(planner.next(at(6)), Next::WaitUntil(at(7)));
    assert_eq!(planner.next(at(7)), Next::Poll(1));
    // Once more, and then it is looked up: from there on it has its interval.
    planner.refused(1, Duration::from_secs(200), at(7));
    let wait = planner.next(at(100));
    assert!(
        matches!(wait, Next::WaitUntil(until) if until <= at(207)),
        "{wait:?}"
    );
    assert_eq!(planner.next(at(207)), Next::Poll(1));
    planner.set_rate(1, 1.0 / DAY, at(208));
    assert!(matches!(planner.next(at(260)), Next::WaitUntil(_)));
    assert_eq!(polls(&mut planner, epoch, 261.0, 280.0).len(), 1);
    // A channel that is no longer watched is not retried.
    planner.remove(1, 1);
    planner.refused(1, Duration::ZERO, at(280));
    assert_eq!(planner.next(at(280)), Next::Idle);
}

#[test]
fn a_poll_that_cost_nothing_leaves_its_place_to_another() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(1.0), epoch);
    (0..100).for_each(|key| planner.insert(key, 1));
    for key in 0..100 {
        assert_eq!(planner.next(epoch), Next::Poll(key));
        planner.return_poll();
    }
    assert!(matches!(planner.next(epoch), Next::WaitUntil(_)));
}

#[test]
fn a_lookup_of_the_past_counts_from_when_it_was_made() {
    let epoch = Instant::now();
    let at = |seconds| epoch + Duration::from_secs(seconds);
    let mut planner = Planner::new(limits(20.0), epoch);
    planner.insert(1, 1);
    assert_eq!(planner.next(at(1000)), Next::Poll(1));
    // It found an entry half a minute old.
    planner.return_poll();
    planner.observed(1, [], at(970));
    assert!(matches!(planner.next(at(1029)), Next::WaitUntil(_)));
    let next = polls(&mut planner, epoch, 1030.0, 1037.0);
    assert_eq!(next.len(), 1, "{next:?}");
}

#[test]
fn a_budget_that_changes_each_second_is_kept() {
    let epoch = Instant::now();
    let mut planner = Planner::new(limits(5.0), epoch);
    (0..5000).for_each(|key| planner.insert(key, 1));
    let mut made = 0;
    for second in 0..100_u32 {
        let budget = if second % 2 == 0 { 5.0 } else { 5.5 };
        planner.set_budget(budget, epoch + Duration::from_secs(second.into()));
        made += polls(&mut planner, epoch, second.into(), f64::from(second) + 1.0).len();
    }
    assert!((515..=530).contains(&made), "{made}");
}

#[test]
fn a_channel_is_polled_until_the_last_watch_of_the_last_caller_has_ended() {
    let epoch = Instant::now();
    for callers in [[1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1], [1, 2, 3]] {
        let mut planner = Planner::new(limits(20.0), epoch);
        for caller in callers {
            planner.insert(1, caller);
        }
        for caller in callers {
            assert_eq!(planner.len(), 1, "{callers:?}");
            planner.remove(1, 9);
            planner.remove(1, caller);
        }
        assert!(planner.is_empty(), "{callers:?}");
        assert!(planner.callers.is_empty(), "{callers:?}");
    }
}
