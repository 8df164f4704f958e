//! Refused callers who retry when they were told to are admitted.

use super::world::{Load, Tally, World, budget};
use crate::dispatch::Class;

const SECONDS: f64 = 30.0;

/// A crowd of callers with one call each.
fn crowd(demand: f64, patience: f64) -> Load {
    Load {
        callers: 1_000_000,
        comes_again: u32::MAX,
        patience: Some(patience),
        ..Load::new(Class::AwaitedUnknown, 20.0 * demand)
    }
}

fn run(loads: &[Load]) -> (World, Tally) {
    let world = World::new(&budget(), 0.2, loads, 21).run(10.0, SECONDS);
    let started = world.starts.len() as f64 / SECONDS;
    assert!(started > 0.99 * 20.0, "{started} a second");
    let tally = world.tallies[0].clone();
    (world, tally)
}

#[test]
fn everybody_for_whom_a_place_was_held_gets_in_under_any_steady_load() {
    for patience in [30.0, 1.0] {
        for demand in [1.1, 2.0, 10.0] {
            let (_, tally) = run(&[crowd(demand, patience)]);
            assert!(
                tally.came_reserved > 80,
                "{demand}, {patience} s: {}",
                tally.came_reserved
            );
            let part = tally.got_in_reserved as f64 / tally.came_reserved as f64;
            assert!(part >= 0.97, "{demand}, {patience} s: {part}");
        }
    }
}

#[test]
fn up_to_twice_the_rate_a_place_is_held_for_nearly_all_who_are_patient() {
    for demand in [1.1, 1.5, 2.0] {
        let (_, tally) = run(&[crowd(demand, 30.0)]);
        let part = tally.got_in as f64 / tally.came_again as f64;
        assert!(part >= 0.95, "{demand}: {part}");
    }
}

#[test]
fn places_that_are_held_for_who_never_comes_cost_nothing() {
    for patience in [30.0, 1.0] {
        for demand in [1.2, 10.0] {
            let gone = Load {
                comes_again: 0,
                ..crowd(demand, patience)
            };
            // `run` asserts that the rate is used up.
            let (_, tally) = run(&[gone]);
            assert!(tally.refused > 50, "{demand}, {patience} s: {}", tally.refused);
            assert!(
                demand < 2.0 || tally.mean_wait() > 0.1,
                "the line does not run dry"
            );
        }
    }
}

#[test]
fn modest_callers_get_in_at_the_second_try_beside_a_crowd_and_a_flood() {
    let crowd = Load {
        comes_again: 0,
        ..crowd(1.5, 30.0)
    };
    let modest = Load {
        callers: 1000,
        comes_again: 3,
        ..Load::new(Class::AwaitedUnknown, 4.0)
    };
    let flood = Load::new(Class::AwaitedUnknown, 1000.0);
    let (world, _) = run(&[crowd, modest, flood]);
    let modest = &world.tallies[1];
    assert!(modest.came_again > 25, "{}", modest.came_again);
    let part = modest.got_in as f64 / modest.came_again as f64;
    assert!(part >= 0.95, "{part}");
}

#[test]
fn a_batch_is_told_one_turn_after_the_other() {
    for patience in [30.0, 1.0] {
        let batches = Load {
            batch: 100,
            regular: true,
            comes_again: 1,
            patience: Some(patience),
            ..Load::new(Class::AwaitedUnknown, 10.0)
        };
        let world = World::new(&budget(), 0.2, &[batches], 22).run(0.0, 59.0);
        let tally = &world.tallies[0];
        assert_eq!(tally.offered % 100, 0);
        assert!(tally.came_again > 100, "{}", tally.came_again);
        assert_eq!(tally.got_in, tally.came_again, "{patience} s");
        assert!(tally.longest_pause < 5.0, "{}", tally.longest_pause);
    }
}

#[test]
fn one_caller_s_flood_is_told_of_its_own_line_and_not_of_others_() {
    let flood = Load {
        comes_again: 1,
        ..Load::new(Class::AwaitedUnknown, 400.0)
    };
    let (_, tally) = run(&[flood]);
    assert!(tally.longest_pause > 60.0, "it has asked for minutes of turns");
    // Spaced by the caller's rate, its retries are no flood; all refused calls at once would be 380 a second.
    assert!((tally.came_again as f64) < 25.0 * SECONDS, "{}", tally.came_again);
    // The same beside a modest caller, whose `retry_after` depends on the queue and not on the flood.
    let modest = Load {
        callers: 50,
        comes_again: 2,
        ..Load::new(Class::AwaitedUnknown, 18.0)
    };
    let (_, tally) = run(&[modest, flood]);
    assert!(tally.longest_pause < 10.0, "{}", tally.longest_pause);
}
