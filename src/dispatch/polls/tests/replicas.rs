//! Replicas that watch the same channels and learn of each other's lookups through a store. Each has a planner, and the budget of an
//! address of its own.

use super::*;

/// The time until the other replicas know of a lookup.
const PROPAGATION: f64 = 0.2;

/// The result for all replicas.
#[derive(Debug)]
struct Shared {
    /// The mean time from an upload to the lookup that finds it.
    mean_delay: f64,
    /// Lookups a second, of all replicas.
    polls: f64,
    /// Polls that needed no lookup, since another replica had just made one.
    given_back: f64,
    /// The shortest time between two lookups of a channel.
    shortest: f64,
}

fn share(replicas: usize, rates: &[f64], budget: f64, warm: f64, until: f64) -> Shared {
    let mut rng = Rng::with_seed(11);
    let epoch = Instant::now();
    let at = |now: f64| epoch + Duration::from_secs_f64(now);
    let limits = limits(budget);
    let mut planners: Vec<_> = (0..replicas).map(|_| Planner::new(limits, epoch)).collect();
    let mut feeds: Vec<_> = rates.iter().map(|rate| Uploads::new(*rate, &mut rng)).collect();
    for planner in &mut planners {
        (0..u32::try_from(rates.len()).expect("few")).for_each(|key| planner.insert(key, 1));
    }
    // What the store has: when each channel was last looked up.
    let mut last = vec![None::<f64>; rates.len()];
    let mut updates: std::collections::VecDeque<(f64, u32, usize)> = std::collections::VecDeque::new();
    let mut sums = vec![(0.0, 0.0); rates.len()];
    let (mut polls, mut given_back, mut shortest) = (0_u32, 0_u32, f64::INFINITY);
    let mut now = 0.0_f64;
    while now < until {
        while let Some((_, key, by)) = updates.pop_front_if(|(due, ..)| *due <= now) {
            let looked_up = last[key as usize].expect("it was");
            for (_, planner) in planners.iter_mut().enumerate().filter(|(other, _)| *other != by) {
                let ages = feeds[key as usize].ages(now, &mut rng);
                planner.observed(key, ages, at(looked_up));
            }
        }
        let mut next = updates.front().map_or(until, |(due, ..)| *due);
        for (index, planner) in planners.iter_mut().enumerate() {
            loop {
                match planner.next(at(now)) {
                    Next::Poll(key) => {
                        let ages = feeds[key as usize].ages(now, &mut rng);
                        let known = last[key as usize].filter(|at| now - at <= 30.0);
                        if let Some(looked_up) = known {
                            planner.return_poll();
                            planner.observed(key, ages, at(looked_up));
                            given_back += u32::from(now >= warm);
                            continue;
                        }
                        planner.observed(key, ages, at(now));
                        if let Some(before) = last[key as usize].replace(now)
                            && now >= warm
                        {
                            let interval = now - before;
                            shortest = shortest.min(interval);
                            sums[key as usize].0 += interval;
                            sums[key as usize].1 += interval * interval / 2.0;
                        }
                        polls += u32::from(now >= warm);
                        updates.push_back((now + PROPAGATION, key, index));
                    }
                    Next::WaitUntil(until) => {
                        next = next.min(until.duration_since(epoch).as_secs_f64() + 1e-9);
                        break;
                    }
                    Next::Idle => panic!("channels are watched"),
                }
            }
        }
        now = next.max(now + 1e-9);
    }
    let mut delays = 0.0;
    for (rate, (sum, half_squares)) in rates.iter().zip(&sums) {
        // A channel without two lookups counts as slow as possible.
        delays += rate * if *sum > 0.0 { half_squares / sum } else { 1800.0 };
    }
    let seconds = until - warm;
    Shared {
        mean_delay: delays / rates.iter().sum::<f64>(),
        polls: f64::from(polls) / seconds,
        given_back: f64::from(given_back) / seconds,
        shortest,
    }
}

#[test]
fn budgets_of_replicas_add_up() {
    let mut rng = Rng::with_seed(5);
    let rates = rates(800, 2.0, &mut rng);
    let alone = share(1, &rates, 2.0, 2400.0, 4800.0);
    let three = share(3, &rates, 2.0, 2400.0, 4800.0);
    let one_of_three = share(1, &rates, 6.0, 2400.0, 4800.0);
    assert!((1.9..2.05).contains(&alone.polls), "{alone:?}");
    assert!((5.6..6.1).contains(&three.polls), "{three:?}");
    // As if one replica had the budget of all.
    assert!(
        three.mean_delay < 1.15 * one_of_three.mean_delay,
        "{three:?} {one_of_three:?}"
    );
    assert!(three.mean_delay < 0.7 * alone.mean_delay, "{three:?} {alone:?}");
}

#[test]
fn with_room_for_all_replicas_poll_a_channel_once_among_them() {
    let mut rng = Rng::with_seed(5);
    let rates = rates(500, 2.0, &mut rng);
    for replicas in [1, 3, 10] {
        let shared = share(replicas, &rates, 20.0, 300.0, 600.0);
        // 500 in a minute are 8.3 a second.
        assert!((7.5..8.4).contains(&shared.polls), "{replicas}: {shared:?}");
        assert!(shared.shortest > 59.0, "{replicas}: {shared:?}");
    }
}

/// The table in docs/dispatch.md: `cargo test --release --lib table_of_replicas -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is what it is for")]
fn table_of_replicas() {
    println!(
        "| polls a second, each | channels | replicas | polls a second, all | given back | mean delay | one with all of it |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (budget, count) in [(0.5, 400)] {
        for replicas in [1_u32, 3, 10] {
            let mut rng = Rng::with_seed(5);
            let rates = rates(count, 2.0, &mut rng);
            let shared = share(replicas as usize, &rates, budget, 1200.0, 2400.0);
            let one = share(1, &rates, budget * f64::from(replicas), 1200.0, 2400.0);
            println!(
                "| {budget} | {count} | {replicas} | {:.1} | {:.1} | {:.0} s | {:.0} s |",
                shared.polls, shared.given_back, shared.mean_delay, one.mean_delay
            );
        }
    }
}
