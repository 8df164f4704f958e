//! Any demand, latency and patience: the budget is used, and promises are kept.

use super::world::{Load, World, budget, jain};
use crate::dispatch::Class;

const WARM: f64 = 10.0;

/// The throughput of 20 a second and 32 slots.
fn limit(latency: f64) -> f64 {
    (32.0 / latency).min(20.0)
}

fn load(demand: f64, callers: u64, patience: f64) -> Load {
    Load {
        callers,
        patience: Some(patience),
        ..Load::new(Class::AwaitedUnknown, demand * 20.0)
    }
}

#[test]
fn whatever_the_demand_the_budget_is_spent_on_answers() {
    for (patience, latencies) in [(30.0, &[0.05, 1.0, 5.0][..]), (1.0, &[0.05, 0.5])] {
        for &latency in latencies {
            for demand in [0.5, 1.1, 2.0, 10.0, 50.0] {
                for callers in [3, 1000] {
                    // Long enough for random variation to average out.
                    let seconds = if limit(latency) < 20.0 { 60.0 } else { 15.0 };
                    let load = load(demand, callers, patience);
                    let world = World::new(&budget(), latency, &[load], 1).run(WARM, seconds);
                    let tally = &world.tallies[0];
                    // Of the actual demand: arrivals are random.
                    let wanted = (tally.offered as f64 / seconds).min(limit(latency));
                    let goodput = tally.answered as f64 / seconds;
                    let scene = format!("{demand} × the rate, {callers} callers, {latency} s, {patience} s");
                    assert!(goodput >= 0.95 * wanted, "{scene}: {goodput} of {wanted}");
                    assert_eq!(tally.late, 0, "{scene}: nobody waits for longer than promised");
                    assert!(tally.longest_wait() <= 5.0, "{scene}: {}", tally.longest_wait());
                    // Lookups are not admitted in vain either, unless slots are the limit, where the duration of fetches is an estimate.
                    let spare = if limit(latency) < 20.0 {
                        0.01 * tally.admitted as f64 + 2.0
                    } else {
                        0.0
                    };
                    assert!(tally.expired as f64 <= spare, "{scene}: {}", tally.expired);
                    assert!(world.most_running <= 32, "{scene}");
                }
            }
        }
    }
}

#[test]
fn fetches_that_outlast_their_callers_go_out_as_long_as_the_budget_has_no_better_use() {
    for latency in [1.0, 2.0, 5.0] {
        let impatient = load(2.0, 1000, 1.0);
        let world = World::new(&budget(), latency, &[impatient], 2).run(WARM, 60.0);
        let started = world.tallies[0].started as f64 / 60.0;
        assert!(started >= 0.9 * limit(latency), "{latency} s: {started}");
        // Callers who can wait longer arrive first.
        let patient = load(2.0, 10, 30.0);
        let world = World::new(&budget(), latency, &[impatient, patient], 2).run(WARM, 60.0);
        let answered = world.tallies[1].answered as f64 / 60.0;
        assert!(answered >= 0.9 * limit(latency), "{latency} s: {answered}");
    }
}

#[test]
fn greedy_callers_get_the_same() {
    for latency in [0.1, 5.0] {
        for callers in [2, 5, 10, 30] {
            // The first caller asks ten times as often as each of the others, over a new connection each time.
            let greedy = Load {
                reconnects: true,
                ..load(10.0, 1, 30.0)
            };
            let others = load(callers as f64, callers - 1, 30.0);
            let world = World::new(&budget(), latency, &[greedy, others], 3).run(WARM, 120.0);
            let mut got = world.tallies[0].by_caller.clone();
            got.extend(&world.tallies[1].by_caller);
            let got: Vec<f64> = got.iter().map(|answers| *answers as f64).collect();
            let index = jain(&got);
            assert!(index >= 0.95, "{callers} callers, {latency} s: {index}: {got:?}");
        }
    }
}

#[test]
fn classes_get_their_shares_and_what_others_leave() {
    let all: Vec<Load> = Class::ALL
        .iter()
        .map(|class| Load {
            callers: 5,
            ..Load::new(*class, 100.0)
        })
        .collect();
    let world = World::new(&budget(), 0.1, &all, 4).run(WARM, 60.0);
    for (class, tally) in Class::ALL.iter().zip(&world.tallies) {
        let rate = tally.started as f64 / 60.0;
        let share = 20.0 * class.share();
        assert!((rate - share).abs() < 0.1 * share, "{class:?}: {rate}");
        assert_eq!((tally.late, tally.expired), (0, 0), "{class:?}");
    }
    // Two classes are idle: what they leave is shared in proportion.
    let world = World::new(&budget(), 0.1, &all[1..3], 4).run(WARM, 60.0);
    let rates: Vec<f64> = world
        .tallies
        .iter()
        .map(|tally| tally.started as f64 / 60.0)
        .collect();
    assert!((rates[0] - 13.33).abs() < 1.0, "{rates:?}");
    assert!((rates[1] - 6.67).abs() < 1.0, "{rates:?}");
}

#[test]
fn a_class_within_its_guaranteed_part_is_let_in_beside_any_flood_of_the_others() {
    for modest in Class::ALL {
        let floods = Class::ALL
            .iter()
            .filter(|class| **class != modest)
            .map(|class| Load {
                callers: 1000,
                ..Load::new(*class, 300.0)
            });
        let mut loads: Vec<Load> = floods.collect();
        // Half of what is guaranteed.
        loads.push(Load {
            callers: 1000,
            ..Load::new(modest, 10.0 * modest.guaranteed())
        });
        let world = World::new(&budget(), 0.1, &loads, 5).run(WARM, 60.0);
        let tally = &world.tallies[3];
        assert_eq!(
            (tally.refused, tally.expired, tally.late),
            (0, 0, 0),
            "{modest:?}"
        );
        assert!(tally.mean_wait() < 0.2, "{modest:?}: {}", tally.mean_wait());
    }
}

#[test]
fn as_soon_as_the_load_has_ended_all_is_well() {
    // A crowd until its end, and a modest caller after it, in one world: the crowd's leftovers count.
    let mut crowd = load(50.0, 1000, 1.0);
    crowd.until = 30.0;
    let modest = Load {
        from: 31.0,
        ..Load::new(Class::AwaitedUnknown, 1.0)
    };
    let world = World::new(&budget(), 0.1, &[crowd, modest], 6).run(31.0, 60.0);
    let tally = &world.tallies[1];
    assert!(tally.offered > 40, "{tally:?}");
    assert!(
        tally.answered >= tally.offered - 1,
        "one may be under way at the end: {tally:?}"
    );
    assert_eq!(tally.refused, 0);
    assert!(tally.longest_wait() < 0.2, "{}", tally.longest_wait());
}
