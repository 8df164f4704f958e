//! Model checking of the flight map (`src/flight.rs`) and its channel (`broadcast.rs`), those very files,
//! over primitives that shuttle schedules.
//!
//! Small scenarios are tried in every interleaving there is; larger ones in some thousands, chosen by chance
//! from a fixed seed. A waiter that never gets an outcome shows as a deadlock, which shuttle reports; all else is
//! asserted in [`history`] and [`World`]. Not modelled: weak memory. Nothing leans on it: atomics only count,
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

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use shuttle::{
    Config, Runner,
    future::block_on,
    rand::{Rng as _, thread_rng},
    scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler},
    thread,
};

use broadcast::Overloaded;
use flight::{Flight, Flights, Joined, MIN_SHARD_CAPACITY, SHARDS, Waiter};
use history::{Ending, History, Span};
use span::SpanMaker;
use sync::{Grain, with_grain};

/// As many as ever call in one execution, and more.
const ENOUGH: usize = 1000;

/// A key in the same shard as 1.
const BESIDE_1: u8 = 65;
const _: () = assert!(BESIDE_1 as usize == 1 + SHARDS);

/// A flight map, and what was done to it.
#[derive(Clone)]
struct World {
    flights: Arc<Flights<u8, usize>>,
    limit: usize,
    /// Locked between scheduling points only: shuttle's threads never meet there.
    history: Arc<Mutex<History>>,
}

/// A flight, and its number in the history.
struct Flying(World, Flight<u8, usize>, usize);

/// A caller that was admitted.
struct Waiting {
    world: World,
    key: u8,
    waiter: Waiter<usize>,
    joined: Span,
    /// The flight that it has opened.
    own: Option<usize>,
    number: usize,
}

impl World {
    fn new(limit: usize) -> Self {
        Self {
            flights: Flights::new(limit, SpanMaker::default()),
            limit,
            history: Arc::default(),
        }
    }

    fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().expect("an assertion failed meanwhile"))
    }

    fn join(&self, key: u8) -> Result<(Waiting, Option<Flying>), Overloaded> {
        let from = self.note(History::tick);
        let joined = self.flights.join(key)?;
        let span = self.note(|history| history.since(from));
        let (waiter, flying) = match joined {
            Joined::Existing(waiter) => (waiter, None),
            Joined::New(flight, waiter) => {
                let number = self.opened(key, span);
                (waiter, Some(Flying(self.clone(), flight, number)))
            }
        };
        assert_eq!(waiter.collapsed(), flying.is_none());
        let waiting = Waiting {
            world: self.clone(),
            key,
            waiter,
            joined: span,
            own: flying.as_ref().map(|flying| flying.2),
            number: self.note(|history| history.let_in(self.limit)),
        };
        Ok((waiting, flying))
    }

    fn opened(&self, key: u8, span: Span) -> usize {
        let number = self.note(|history| history.opened(key, span));
        sync::step(); // a lookup takes time: others see its flight before it ends
        number
    }

    /// Of a key that has no flight.
    fn open(&self, key: u8) -> (Waiting, Flying) {
        match self.join(key) {
            Ok((waiting, Some(flying))) => (waiting, flying),
            _ => panic!("there is a flight for {key}, or no place"),
        }
    }

    /// Joins, and sees a flight to its `ending` if it has to.
    fn call(&self, key: u8, ending: Ending) {
        let (waiting, flying) = self.join(key).expect("there is a place");
        if let Some(flying) = flying {
            flying.end(ending);
        }
        waiting.wait();
    }

    /// Joins if there is a place, and does not stay.
    fn drop_in(&self) {
        if let Ok((waiting, flying)) = self.join(1) {
            if let Some(flying) = flying {
                flying.end(Ending::Value);
            }
            sync::step(); // others see that there is one more
            waiting.leave();
        }
    }

    fn refresh(&self, key: u8) -> Option<Flying> {
        let from = self.note(History::tick);
        let flight = self.flights.start(key)?;
        let span = self.note(|history| history.since(from));
        let number = self.opened(key, span);
        Some(Flying(self.clone(), flight, number))
    }

    fn detach(&self, key: u8) {
        let index = self.note(|history| history.detaches(key));
        self.flights.detach(&key);
        self.note(|history| history.detached(index));
    }

    /// Checks that nothing is left at the end.
    fn is_over(&self) {
        with_grain(Grain::Quiet, || {
            assert_eq!(self.flights.len(), 0, "entries leaked: {:?}", self.history);
            let left = self.flights.in_progress();
            let left: Vec<_> = left
                .iter()
                .map(|one| (one.key, one.started_at, one.waiters))
                .collect();
            assert!(left.is_empty(), "still in progress: {left:?}");
            assert!(
                self.flights.capacity() <= SHARDS * 2 * MIN_SHARD_CAPACITY,
                "{}",
                self.flights.capacity()
            );
        });
        assert_eq!(
            self.flights.waiter_count(),
            0,
            "places leaked: {:?}",
            self.history
        );
    }
}

impl Flying {
    /// Asks whether it is current, which it may have to be, or not to be.
    fn look(&self) {
        let Self(world, flight, number) = self;
        let from = world.note(History::tick);
        let current = flight.is_current();
        world.note(|history| {
            let asked = history.since(from);
            history.found_current(*number, asked, current);
        });
    }

    /// Waits until all callers have left, after which it is not current.
    fn is_left(&self) {
        let Self(world, flight, number) = self;
        let key = world.note(|history| history.key(*number));
        let index = world.note(|history| history.detaches(key));
        block_on(flight.waiters().all_left());
        world.note(|history| history.detached(index));
        assert_eq!(flight.waiters().count(), 0, "there are waiters left");
        assert!(!flight.is_current(), "it could be joined still");
    }

    fn end(self, ending: Ending) {
        let Self(world, flight, number) = self;
        world.note(|history| history.ends(number, ending));
        match ending {
            Ending::Dropped => drop(flight),
            ending => flight.land(ending.outcome(number)),
        }
        world.note(|history| history.ended(number));
    }
}

impl Waiting {
    fn wait(self) {
        self.world.note(|history| history.leaves(self.number));
        let outcome = block_on(self.waiter.outcome());
        self.world.note(|history| {
            history.left(self.number);
            history.received(self.key, self.joined, self.own, outcome);
        });
    }

    /// Checks for an outcome, and gives up if there is none yet.
    fn glance(self) {
        self.world.note(|history| history.leaves(self.number));
        let outcome = self.waiter.outcome().now_or_never();
        self.world.note(|history| {
            history.left(self.number);
            if let Some(outcome) = outcome {
                history.received(self.key, self.joined, self.own, outcome);
            }
        });
    }

    fn leave(self) {
        self.world.note(|history| history.leaves(self.number));
        drop(self.waiter);
        self.world.note(|history| history.left(self.number));
    }
}

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
