//! A modest caller with one cold lookup a second, beside abusers of every kind: its waits hardly change.

use std::num::NonZeroU32;

use super::world::{Load, Tally, World, budget};
use crate::dispatch::{Budget, Class};

const SECONDS: f64 = 30.0;

/// Two turns.
const LITTLE: f64 = 2.0 / 20.0;

fn abusers() -> [(&'static str, Load); 6] {
    let unknown = Load::new(Class::AwaitedUnknown, 300.0);
    let reconnects = true;
    [
        ("made-up channels", unknown),
        (
            "new connections",
            Load {
                reconnects,
                ..unknown
            },
        ),
        (
            "batches",
            Load {
                batch: 100,
                ..unknown
            },
        ),
        ("max_age of 0", Load::new(Class::AwaitedKnown, 300.0)),
        ("stale answers", Load::new(Class::Refresh, 300.0)),
        ("watches", Load::new(Class::Poll, 300.0)),
    ]
}

fn modest(class: Class, beside: &[Load], latency: f64) -> Tally {
    let regular = Load {
        regular: true,
        ..Load::new(class, 1.0)
    };
    let mut loads = vec![regular];
    loads.extend(beside);
    let world = World::new(&budget(), latency, &loads, 11).run(10.0, SECONDS);
    world.tallies[0].clone()
}

#[test]
fn beside_one_abuser_of_any_kind_a_modest_caller_waits_two_turns_longer_at_most() {
    for class in [Class::AwaitedUnknown, Class::AwaitedKnown] {
        let alone = modest(class, &[], 0.2);
        assert!(alone.answered > 25 && alone.refused == 0);
        for (kind, abuser) in abusers() {
            let beside = modest(class, &[abuser], 0.2);
            assert_eq!(beside.offered, alone.offered, "{kind}");
            assert_eq!((beside.refused, beside.expired), (0, 0), "{kind}");
            assert!(
                beside.answered + 1 >= alone.answered,
                "{kind}: {}",
                beside.answered
            );
            let longest = alone.longest_wait() + LITTLE;
            assert!(
                beside.longest_wait() <= longest,
                "{kind}: {}",
                beside.longest_wait()
            );
        }
    }
}

#[test]
fn a_modest_caller_with_less_patience_than_the_abuser_is_not_refused_either() {
    for patience in [1.0, 2.0, 4.0, 5.0, 5.3] {
        let impatient = Load {
            regular: true,
            patience: Some(patience),
            ..Load::new(Class::AwaitedUnknown, 1.0)
        };
        // A server that also refreshes stale entries, and polls.
        let other = |class| Load {
            regular: true,
            ..Load::new(class, 0.5)
        };
        for (kind, abuser) in abusers() {
            for rate in [abuser.rate, 1000.0] {
                let abuser = Load { rate, ..abuser };
                let loads = [impatient, abuser, other(Class::Refresh), other(Class::Poll)];
                let world = World::new(&budget(), 0.1, &loads, 11).run(10.0, SECONDS);
                let modest = &world.tallies[0];
                assert_eq!(
                    (modest.refused, modest.expired),
                    (0, 0),
                    "{kind}, {rate} a second, {patience} s"
                );
                assert!(modest.answered > 25, "{kind}: {}", modest.answered);
                assert!(world.tallies[1].started as f64 > 17.0 * SECONDS, "{kind}");
            }
        }
    }
}

#[test]
fn a_connection_is_not_refused_beside_another_connection_of_its_caller() {
    // Like two clients behind one proxy, or on one machine.
    for (batch, rate) in [(1, 300.0), (1, 1000.0), (100, 1000.0)] {
        let abuser = Load {
            batch,
            ..Load::new(Class::AwaitedUnknown, rate)
        };
        let modest = Load {
            regular: true,
            patience: Some(5.0),
            connections: 1,
            caller_of: Some(0),
            ..Load::new(Class::AwaitedUnknown, 1.0)
        };
        let world = World::new(&budget(), 0.1, &[abuser, modest], 11).run(10.0, SECONDS);
        let modest = &world.tallies[1];
        assert_eq!(
            (modest.refused, modest.expired),
            (0, 0),
            "{rate} a second by {batch}"
        );
        assert!(modest.answered > 25, "{}", modest.answered);
        assert!(modest.longest_wait() <= 2.0 * LITTLE, "{}", modest.longest_wait());
    }
}

#[test]
fn what_was_promised_to_one_connection_of_an_abuser_is_not_kept_at_the_cost_of_others() {
    // The first of its batches is promised everything there is. Its later connections overtake that.
    let abuser = Load {
        batch: 100,
        connections: 10,
        from: 5.0,
        ..Load::new(Class::AwaitedUnknown, 1000.0)
    };
    let regular = |class, rate| Load {
        regular: true,
        ..Load::new(class, rate)
    };
    let modest = [
        regular(Class::AwaitedUnknown, 1.0),
        regular(Class::Refresh, 0.5),
        regular(Class::Poll, 0.5),
    ];
    for seed in 0..5 {
        let mut loads = modest.to_vec();
        loads.push(abuser);
        let world = World::new(&budget(), 0.1, &loads, seed).run(0.0, 20.0);
        for tally in &world.tallies[..modest.len()] {
            assert_eq!((tally.refused, tally.expired), (0, 0));
            // Four turns: at first the bucket's tokens are used, too.
            assert!(tally.longest_wait() <= 2.0 * LITTLE, "{}", tally.longest_wait());
        }
        let abuser = &world.tallies[modest.len()];
        assert_eq!((abuser.late, abuser.expired), (0, 0));
    }
}

#[test]
fn what_was_promised_to_an_abuser_before_polls_came_does_not_hold_up_others() {
    // Batches on ten connections fill the queue while there are no polls; then polls take their share.
    let abuser = Load {
        batch: 100,
        connections: 10,
        from: 3.0,
        ..Load::new(Class::AwaitedUnknown, 200.0)
    };
    let polls = Load {
        from: 3.2,
        ..Load::new(Class::Poll, 40.0)
    };
    let modest = Load {
        regular: true,
        patience: Some(10.0),
        ..Load::new(Class::AwaitedUnknown, 1.0)
    };
    for seed in 0..5 {
        let world = World::new(&budget(), 0.05, &[modest, abuser, polls], seed).run(0.0, 20.0);
        let modest = &world.tallies[0];
        assert_eq!((modest.refused, modest.expired), (0, 0));
        assert!(modest.longest_wait() <= 1.0, "{}", modest.longest_wait());
    }
}

#[test]
fn where_places_are_the_limit_the_same_holds() {
    let few = Budget {
        places: NonZeroU32::new(20).expect("not 0"),
        ..budget()
    };
    let regular = Load {
        regular: true,
        ..Load::new(Class::AwaitedUnknown, 1.0)
    };
    for (kind, abuser) in abusers() {
        let world = World::new(&few, 0.2, &[regular, abuser], 11).run(10.0, SECONDS);
        let modest = &world.tallies[0];
        assert_eq!((modest.refused, modest.expired), (0, 0), "{kind}");
        assert!(
            modest.longest_wait() <= LITTLE,
            "{kind}: {}",
            modest.longest_wait()
        );
        assert!(world.tallies[1].started as f64 > 18.0 * SECONDS, "{kind}");
    }
}

#[test]
fn where_slots_are_the_limit_the_same_holds_by_slots() {
    // 32 slots of 4 s: one becomes free about every 125 ms.
    let alone = modest(Class::AwaitedUnknown, &[], 4.0);
    for (kind, abuser) in abusers() {
        let beside = modest(Class::AwaitedUnknown, &[abuser], 4.0);
        assert_eq!((beside.refused, beside.expired), (0, 0), "{kind}");
        // At random, so a turn is on average as long as the rest of one.
        assert!(
            beside.mean_wait() <= alone.mean_wait() + 3.0 * 0.125,
            "{kind}: {}",
            beside.mean_wait()
        );
        assert!(
            beside.longest_wait() <= alone.longest_wait() + 1.5,
            "{kind}: {}",
            beside.longest_wait()
        );
    }
}

#[test]
fn beside_all_of_them_at_once_a_modest_caller_still_gets_every_answer() {
    let all = abusers().map(|(_, abuser)| abuser);
    for class in [Class::AwaitedUnknown, Class::AwaitedKnown] {
        let beside = modest(class, &all, 0.2);
        assert_eq!((beside.refused, beside.expired), (0, 0));
        // Three abusers and the modest caller take turns in a class with a quarter of the rate.
        let round = 4.0 / (0.25 * 20.0);
        assert!(
            beside.longest_wait() <= round + LITTLE,
            "{}",
            beside.longest_wait()
        );
    }
}
