//! What the scenarios are made of: a flight map, its flights and callers. Each of their steps is noted in the [`History`], which asserts
//! what must hold.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use shuttle::future::block_on;

use crate::{
    broadcast::Overloaded,
    flight::{Flight, Flights, Joined, MIN_SHARD_CAPACITY, SHARDS, Waiter},
    history::{Ending, History, Span},
    span::SpanMaker,
    sync::{self, Grain, with_grain},
};

/// A flight map, and what was done to it.
#[derive(Clone)]
pub struct World {
    flights: Arc<Flights<u8, usize>>,
    limit: usize,
    /// Locked between scheduling points only: shuttle's threads never meet there.
    history: Arc<Mutex<History>>,
}

/// A flight, and its number in the history.
pub struct Flying(World, Flight<u8, usize>, usize);

/// A caller that was admitted.
pub struct Waiting {
    world: World,
    key: u8,
    waiter: Waiter<usize>,
    joined: Span,
    /// The flight that it has opened.
    own: Option<usize>,
    number: usize,
}

impl World {
    pub fn new(limit: usize) -> Self {
        Self {
            flights: Flights::new(limit, SpanMaker::default()),
            limit,
            history: Arc::default(),
        }
    }

    fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().expect("an assertion failed meanwhile"))
    }

    pub fn join(&self, key: u8) -> Result<(Waiting, Option<Flying>), Overloaded> {
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
    pub fn open(&self, key: u8) -> (Waiting, Flying) {
        match self.join(key) {
            Ok((waiting, Some(flying))) => (waiting, flying),
            _ => panic!("there is a flight for {key}, or no place"),
        }
    }

    /// Joins, and sees a flight to its `ending` if it has to.
    pub fn call(&self, key: u8, ending: Ending) {
        let (waiting, flying) = self.join(key).expect("there is a place");
        if let Some(flying) = flying {
            flying.end(ending);
        }
        waiting.wait();
    }

    /// Joins if there is a place, and does not stay.
    pub fn drop_in(&self) {
        if let Ok((waiting, flying)) = self.join(1) {
            if let Some(flying) = flying {
                flying.end(Ending::Value);
            }
            sync::step(); // others see that there is one more
            waiting.leave();
        }
    }

    pub fn refresh(&self, key: u8) -> Option<Flying> {
        let from = self.note(History::tick);
        let flight = self.flights.start(key)?;
        let span = self.note(|history| history.since(from));
        let number = self.opened(key, span);
        Some(Flying(self.clone(), flight, number))
    }

    pub fn detach(&self, key: u8) {
        let index = self.note(|history| history.detaches(key));
        self.flights.detach(&key);
        self.note(|history| history.detached(index));
    }

    /// Checks that nothing is left at the end.
    pub fn is_over(&self) {
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
    pub fn look(&self) {
        let Self(world, flight, number) = self;
        let from = world.note(History::tick);
        let current = flight.is_current();
        world.note(|history| {
            let asked = history.since(from);
            history.found_current(*number, asked, current);
        });
    }

    /// Waits until all callers have left, after which it is not current.
    pub fn is_left(&self) {
        let Self(world, flight, number) = self;
        let key = world.note(|history| history.key(*number));
        let index = world.note(|history| history.detaches(key));
        block_on(flight.waiters().all_left());
        world.note(|history| history.detached(index));
        assert_eq!(flight.waiters().count(), 0, "there are waiters left");
        assert!(!flight.is_current(), "it could be joined still");
    }

    pub fn end(self, ending: Ending) {
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
    pub fn wait(self) {
        self.world.note(|history| history.leaves(self.number));
        let outcome = block_on(self.waiter.outcome());
        self.world.note(|history| {
            history.left(self.number);
            history.received(self.key, self.joined, self.own, outcome);
        });
    }

    /// Checks for an outcome, and gives up if there is none yet.
    pub fn glance(self) {
        self.world.note(|history| history.leaves(self.number));
        let outcome = self.waiter.outcome().now_or_never();
        self.world.note(|history| {
            history.left(self.number);
            if let Some(outcome) = outcome {
                history.received(self.key, self.joined, self.own, outcome);
            }
        });
    }

    pub fn leave(self) {
        self.world.note(|history| history.leaves(self.number));
        drop(self.waiter);
        self.world.note(|history| history.left(self.number));
    }
}
