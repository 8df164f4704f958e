//! Model checking of the flight map (`src/flight.rs`) and its channel (`broadcast.rs`), those very files,
//! over primitives that shuttle schedules.
//!
//! Small scenarios are tried in every interleaving there is; larger ones in some thousands, chosen by chance
//! from a fixed seed. A waiter that never gets an outcome shows as a deadlock, which shuttle reports; all else is
//! asserted in [`history`] and [`world`]. Not modelled: weak memory. Nothing leans on it: atomics only count,
//! all else is done under locks or by `OnceLock` and `Notify`.

#![expect(
    clippy::disallowed_types,
    reason = "a history is not to be read after an assertion failed while it was written"
)]

#[path = "../src/broadcast.rs"]
mod broadcast;
#[path = "../src/error.rs"]
mod error;
#[expect(dead_code, reason = "the tasks of flights are not modelled")]
#[path = "../src/flight.rs"]
mod flight;
#[path = "model/history.rs"]
mod history;
#[expect(dead_code, reason = "the tasks of flights are not modelled")]
#[cfg_attr(feature = "tracing", path = "../src/span.rs")]
#[cfg_attr(not(feature = "tracing"), path = "../src/no_span.rs")]
mod span;
#[path = "model/sync.rs"]
mod sync;
#[path = "model/world.rs"]
mod world;

use shuttle::{
    Config, Runner,
    rand::{Rng as _, thread_rng},
    scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler},
    thread,
};

use flight::SHARDS;
use history::Ending;
use sync::{Grain, with_grain};
use world::{Flying, Waiting, World};

/// As many as ever call in one execution, and more.
const ENOUGH: usize = 1000;

/// A key in the same shard as 1.
const BESIDE_1: u8 = 65;
const _: () = assert!(BESIDE_1 as usize == 1 + SHARDS);

/// Runs `scenario` in as many interleavings as `scheduler` wants. Returns their number.
fn check(
    grain: Grain,
    scheduler: impl Scheduler + 'static,
    scenario: impl Fn() + Send + Sync + 'static,
) -> usize {
    let mut config = Config::new();
    config.silence_warnings = true; // that atomics are taken to be sequentially consistent: said above
    with_grain(grain, || Runner::new(scheduler, config).run(scenario))
}

/// Runs `scenario` in every interleaving there is.
fn check_all(grain: Grain, scenario: impl Fn() + Send + Sync + 'static) {
    let tried = check(grain, DfsScheduler::new(None, false), scenario);
    assert!(tried > 50, "only {tried} interleavings: what was there to check?");
}

/// What one thread does.
type Work = Box<dyn FnOnce(&World) + Send>;

/// Runs what is to be done at once, the last of it on this very thread; then checks that nothing is left.
fn at_once<const N: usize>(world: &World, others: [Work; N], last: impl FnOnce(&World)) {
    let threads = others.map(|work| {
        let world = world.clone();
        thread::spawn(move || work(&world))
    });
    last(world);
    for thread in threads {
        thread.join().expect("shuttle reports its panics");
    }
    world.is_over();
}

#[test]
fn two_concurrent_callers_both_get_the_outcome() {
    check_all(Grain::Coarse, || {
        let world = World::new(ENOUGH);
        at_once(
            &world,
            [Box::new(|world| world.call(1, Ending::Value))],
            |world| world.call(1, Ending::Value),
        );
    });
}

/// However a flight ends, its waiter gets the outcome, and a newcomer gets that or the next one's.
#[test]
fn a_newcomer_joins_or_follows_a_flight_that_ends() {
    for (ending, grain) in [
        (Ending::Value, Grain::Fine),
        (Ending::Panic, Grain::Coarse),
        (Ending::TimeOut, Grain::Coarse),
        (Ending::Dropped, Grain::Fine),
    ] {
        check_all(grain, move || {
            let world = World::new(ENOUGH);
            let (first, flying) = world.open(1);
            at_once(&world, [Box::new(move |_| flying.end(ending))], |world| {
                world.call(1, Ending::Value);
                first.wait();
            });
        });
    }
}

#[test]
fn a_caller_that_leaves_does_not_affect_others() {
    for glances in [true, false] {
        check_all(Grain::Coarse, move || {
            let world = World::new(ENOUGH);
            let (first, flying) = world.open(1);
            let (second, _) = world.join(1).expect("there is a place");
            at_once(
                &world,
                [
                    Box::new(move |_| flying.end(Ending::Value)),
                    Box::new(move |_| if glances { first.glance() } else { first.leave() }),
                ],
                |_| second.wait(),
            );
        });
    }
}

#[test]
fn a_detached_flight_ends_beside_its_successor() {
    for ending in [Ending::Value, Ending::Dropped] {
        check_all(Grain::Coarse, move || {
            let world = World::new(ENOUGH);
            let (first, flying) = world.open(1);
            at_once(
                &world,
                [Box::new(move |_| {
                    flying.look();
                    flying.end(ending);
                })],
                |world| {
                    world.detach(1);
                    let (second, flying) = world.join(1).expect("there is a place");
                    let flying = flying.expect("no other thread opens one");
                    flying.look();
                    flying.end(Ending::Value);
                    first.wait();
                    second.wait();
                },
            );
        });
    }
}

#[test]
fn a_detachment_meets_a_caller_and_an_ending() {
    check_all(Grain::Coarse, || {
        let world = World::new(ENOUGH);
        let flying = world.refresh(1).expect("no other thread opens one");
        at_once(
            &world,
            [
                Box::new(move |_| flying.end(Ending::Dropped)),
                Box::new(|world| world.detach(1)),
            ],
            |world| world.call(1, Ending::Value),
        );
    });
}

#[test]
fn a_refresh_and_a_caller_start_one_flight_between_them() {
    for ending in [Ending::Value, Ending::Dropped] {
        check_all(Grain::Coarse, move || {
            let world = World::new(ENOUGH);
            at_once(
                &world,
                [Box::new(move |world| {
                    if let Some(flying) = world.refresh(1) {
                        flying.end(ending);
                    }
                })],
                |world| world.call(1, Ending::Value),
            );
        });
    }
}

/// The fetch learns that all callers have left, in any order, and a later caller starts another.
#[test]
fn a_flight_that_all_callers_have_left_cannot_be_joined() {
    for glances in [true, false] {
        check_all(Grain::Coarse, move || {
            let world = World::new(ENOUGH);
            let (first, flying) = world.open(1);
            at_once(
                &world,
                [
                    Box::new(move |_| {
                        flying.is_left();
                        flying.end(Ending::Value);
                    }),
                    Box::new(move |_| if glances { first.glance() } else { first.leave() }),
                ],
                World::drop_in,
            );
        });
    }
}

#[test]
fn two_flights_in_one_shard_know_nothing_of_each_other() {
    check_all(Grain::Fine, || {
        let world = World::new(ENOUGH);
        let (first, one) = world.open(1);
        let (second, other) = world.open(BESIDE_1);
        at_once(&world, [Box::new(move |_| one.end(Ending::Dropped))], |_| {
            other.look();
            other.end(Ending::Value);
            first.wait();
            second.wait();
        });
    });
}

#[test]
fn the_last_place_is_taken_once() {
    check_all(Grain::Fine, || {
        let world = World::new(1);
        at_once(&world, [Box::new(World::drop_in)], World::drop_in);
    });
}

/// Four threads do whatever callers, lookups and invalidations do, in any order.
fn bustle(limit: usize) {
    let world = World::new(limit);
    at_once(
        &world,
        [(); 3].map(|()| Box::new(do_anything) as Work),
        do_anything,
    );
}

fn do_anything(world: &World) {
    let mut rng = thread_rng();
    let (mut flying, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let key = [1, 1, BESIDE_1, 2][rng.gen_range(0..4)];
        match rng.gen_range(0..10) {
            0..=3 => {
                if let Ok((caller, flight)) = world.join(key) {
                    waiting.push(caller);
                    flying.extend(flight);
                }
            }
            4 => flying.extend(world.refresh(key)),
            5 => world.detach(key),
            6 => waiting.pop().into_iter().for_each(Waiting::leave),
            7 => waiting.pop().into_iter().for_each(Waiting::glance),
            8 => flying.iter().for_each(Flying::look),
            _ => {
                if let Some(flight) = flying.pop() {
                    flight.end(Ending::ALL[rng.gen_range(0..Ending::ALL.len())]);
                }
            }
        }
    }
    // Its own flights first: it may be one of those who wait for them.
    for flight in flying {
        flight.end(Ending::ALL[rng.gen_range(0..Ending::ALL.len())]);
    }
    waiting.into_iter().for_each(Waiting::wait);
}

#[test]
fn whatever_four_threads_do_the_rules_hold() {
    for limit in [2, ENOUGH] {
        check(Grain::Fine, RandomScheduler::new_from_seed(3, 2000), move || {
            bustle(limit);
        });
        for depth in [2, 3, 5] {
            check(
                Grain::Fine,
                PctScheduler::new_from_seed(3, depth, 1000),
                move || bustle(limit),
            );
        }
    }
}
