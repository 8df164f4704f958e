//! Random steps, compared with a map of the lookups that should be queued.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

use super::steps::{budget, request};
use crate::dispatch::{Budget, Class, Dispatcher, Next, Outcome, Request, Ticket};

/// A step of a dispatcher.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit {
        class: usize,
        caller: u64,
        connection: u64,
        patience: u64,
    },
    Cancel(usize),
    Reclassify(usize, usize),
    Pass(u64),
    Finish(usize),
    Unused(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize, 0..4_u64, 0..2_u64, 0..9000_u64).prop_map(|(class, caller, connection, patience)| {
            Step::Admit { class, caller, connection, patience }
        }),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (any::<usize>(), 0..4_usize).prop_map(|(ticket, class)| Step::Reclassify(ticket, class)),
        3 => (0..400_u64).prop_map(Step::Pass),
        2 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Unused),
    ]
}

proptest! {
    #![proptest_config(Config {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..Config::default()
    })]

    /// No lookup is lost or returned twice, and the budget holds.
    #[test]
    fn nothing_is_lost_or_comes_twice(steps in prop::collection::vec(steps(), 1..200)) {
        let epoch = Instant::now();
        let limits = Budget { burst: 3.0, max_queue_wait: Duration::from_secs(5), ..budget(10.0, 4) };
        let mut dispatcher = Dispatcher::new(&limits, epoch);
        let mut in_line: HashMap<Ticket, u32> = HashMap::new();
        let mut running = Vec::new();
        let (mut millis, mut payload, mut spent) = (0_u64, 0, 0_i64);
        for step in steps {
            let now = epoch + Duration::from_millis(millis);
            let mut tickets: Vec<Ticket> = in_line.keys().copied().collect();
            tickets.sort_unstable_by_key(|ticket| in_line[ticket]);
            let nth = |index: usize| tickets.get(index % tickets.len().max(1)).copied();
            match step {
                Step::Admit { class, caller, connection, patience } => {
                    payload += 1;
                    let request = Request {
                        latest_start: Some(now + Duration::from_millis(patience)),
                        ..request(Class::ALL[class], caller, connection)
                    };
                    if let Ok(ticket) = dispatcher.admit(&request, payload, now, 0.5) {
                        prop_assert_eq!(in_line.insert(ticket, payload), None);
                    }
                }
                Step::Cancel(index) => if let Some(ticket) = nth(index) {
                    prop_assert_eq!(dispatcher.cancel(ticket), in_line.remove(&ticket));
                    prop_assert_eq!(dispatcher.cancel(ticket), None);
                },
                Step::Reclassify(index, class) => if let Some(ticket) = nth(index) {
                    let request = request(Class::ALL[class], 9, 9);
                    let _either_is_fine = dispatcher.reclassify(ticket, &request, now, 0.5);
                },
                Step::Pass(passed) => millis += passed,
                Step::Finish(index) => if !running.is_empty() {
                    let permit = running.swap_remove(index % running.len());
                    dispatcher.finished(permit, now, Outcome::Completed);
                },
                Step::Unused(index) => if !running.is_empty() {
                    let permit = running.swap_remove(index % running.len());
                    dispatcher.return_unused(permit);
                    spent -= 1;
                },
            }
            let now = epoch + Duration::from_millis(millis);
            loop {
                match dispatcher.next(now) {
                    Next::Start { ticket, payload, permit, .. } => {
                        prop_assert_eq!(in_line.remove(&ticket), Some(payload));
                        running.push(permit);
                        spent += 1;
                        prop_assert!(running.len() <= 4);
                        // A permit may be returned unused much later: the bucket may then have no room for its token.
                        let most = 3 + i64::try_from(millis).expect("small") / 100;
                        prop_assert!(spent <= most, "{} of {}", spent, most);
                    }
                    Next::Expired { ticket, payload, .. } => {
                        prop_assert_eq!(in_line.remove(&ticket), Some(payload));
                    }
                    Next::WaitUntil(until) => {
                        prop_assert!(until > now && !in_line.is_empty());
                        break;
                    }
                    Next::Idle => {
                        prop_assert!(in_line.is_empty());
                        break;
                    }
                }
            }
            let queued: u32 = Class::ALL.iter().map(|class| dispatcher.counters(*class).queued).sum();
            prop_assert_eq!(queued as usize, in_line.len());
            prop_assert_eq!(dispatcher.queued(), queued);
            for class in Class::ALL {
                let of = dispatcher.counters(class);
                let left = of.started + of.cancelled + of.moved + of.expired;
                prop_assert_eq!(of.admitted, u64::from(of.queued) + left);
            }
        }
        for (ticket, payload) in in_line {
            prop_assert_eq!(dispatcher.cancel(ticket), Some(payload));
        }
        prop_assert_eq!(Class::ALL.map(|class| dispatcher.callers(class)), [0; 4]);
        prop_assert_eq!(dispatcher.flows(), 0);
    }
}
