//! The keyed channel map: which lookups are in progress, and who waits for them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tracing::{Id, Span};

use super::{
    broadcast::{self, Listeners, Overloaded, Places, Receiver},
    span::FlightSpan,
    sync::{Arc, Mutex, RandomState, Weak},
};

/// Enough that two cores which start flights at the same time rarely meet; an empty shard is 64 bytes.
pub(super) const SHARDS: usize = 64;

/// A shard gives memory back when it has less than a quarter of what it has room for, but not below this.
pub(super) const SHARD_KEEPS: usize = 32;

/// Why a flight brought no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    /// The lookup panicked.
    #[error("the lookup panicked")]
    Panicked,
    /// The lookup took longer than a flight may.
    #[error("the lookup took longer than {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The flight's runtime shut down.
    #[error("the lookup was torn down")]
    Abandoned,
}

type Outcome<V> = Result<V, FlightError>;
type Shard<K, V> = HashMap<K, Weak<Joinable<V>>>;

/// What those who join a flight need of it.
struct Joinable<V> {
    sender: broadcast::Sender<Outcome<V>>,
    begun: Instant,
    span: FlightSpan,
}

/// A lookup in progress, as others see it.
#[derive(Clone, Copy, Debug)]
pub struct InProgress<K> {
    /// What is looked up.
    pub key: K,
    /// Since when.
    pub begun: Instant,
    /// How many callers wait for it.
    pub waiting: usize,
}

/// All flights in progress, and the number of those who wait for them.
///
/// Each shard's lock is held for a lookup or an insertion in a map and never across an `await`; no foreign code but the key's
/// `Hash` and `Eq` runs under it, and it does not poison.
pub(super) struct Flights<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    places: Arc<Places>,
}

/// What came of joining.
pub(super) enum Joined<K: Copy + Eq + Hash, V> {
    /// A flight was there.
    Existing(Waiter<V>),
    /// None was there: the caller has to run this one.
    New(Flight<K, V>, Waiter<V>),
}

impl<K: Copy + Eq + Hash, V: Clone> Flights<K, V> {
    pub(super) fn new(max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            places: Places::new(max_waiting),
        })
    }

    /// Joins the flight for `key`, or opens one.
    pub(super) fn join(self: &Arc<Self>, key: K) -> Result<Joined<K, V>, Overloaded> {
        let caller = Span::current();
        let place = self.places.take()?;
        let mut shard = self.shard(&key).lock();
        if let Some(flight) = shard.get(&key).and_then(Weak::upgrade) {
            // Subscribed under the lock: a flight takes itself out of the map, under the lock, before it sends. Whoever finds it
            // in the map therefore hears from it.
            let receiver = flight.sender.subscribe(place);
            drop(shard);
            flight.span.link(&caller);
            return Ok(Joined::Existing(Waiter {
                receiver,
                collapsed: true,
            }));
        }
        let flight = self.open(key, caller.id(), &mut shard);
        drop(shard);
        let waiter = Waiter {
            receiver: flight.joinable.sender.subscribe(place),
            collapsed: false,
        };
        // Made while the caller's is there.
        flight.span();
        Ok(Joined::New(flight, waiter))
    }

    /// Opens a flight that nobody waits for yet. `None` if there is one.
    pub(super) fn start(self: &Arc<Self>, key: K) -> Option<Flight<K, V>> {
        let mut shard = self.shard(&key).lock();
        let is_there = shard.get(&key).and_then(Weak::upgrade).is_some();
        // Not a part of what the caller does, whom it would outlive.
        let flight = (!is_there).then(|| self.open(key, None, &mut shard));
        drop(shard);
        if let Some(flight) = &flight {
            flight.joinable.span.link(&Span::current());
        }
        flight
    }

    fn open(self: &Arc<Self>, key: K, parent: Option<Id>, shard: &mut Shard<K, V>) -> Flight<K, V> {
        let joinable = Arc::new(Joinable {
            sender: broadcast::Sender::new(&self.places),
            begun: Instant::now(),
            span: FlightSpan::new(parent),
        });
        shard.insert(key, Arc::downgrade(&joinable));
        Flight {
            key,
            joinable,
            flights: Arc::clone(self),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Flights<K, V> {
    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        &self.shards[usize::from(byte) % SHARDS]
    }

    /// Gives up the flight for `key`: it goes on for those who wait, but nobody joins it any more, and what it brings is not
    /// [current](Flight::is_current).
    pub(super) fn detach(&self, key: &K) {
        self.shard(key).lock().remove(key);
    }

    /// The number of flights in progress.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// The number of callers who wait.
    pub(super) fn waiting(&self) -> usize {
        self.places.taken()
    }

    /// The flights in progress, shard by shard: some may have ended meanwhile. A flight is upgraded under the lock, under which it
    /// takes itself out of the map: it is never dropped here.
    pub(super) fn in_progress(&self) -> Vec<InProgress<K>> {
        let mut flights = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            flights.extend(shard.iter().filter_map(|(key, weak)| {
                let flight = weak.upgrade()?;
                Some(InProgress {
                    key: *key,
                    begun: flight.begun,
                    waiting: flight.sender.listening(),
                })
            }));
        }
        flights
    }

    /// The number of flights that the map has room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().capacity()).sum()
    }
}

/// One lookup in progress, held by the task that runs it.
///
/// Dropping it takes it out of the map, whether its lookup has ended, panicked, or was torn down with the runtime. Without that
/// a flight that ends early would leave a dead entry for ever. It removes itself and nothing else: under its key there may be
/// another flight by now.
pub(super) struct Flight<K: Copy + Eq + Hash, V> {
    key: K,
    /// The only `Arc` that lasts; joining callers upgrade the map's `Weak` for the length of a subscription.
    joinable: Arc<Joinable<V>>,
    flights: Arc<Flights<K, V>>,
}

impl<K: Copy + Eq + Hash, V: Clone> Flight<K, V> {
    /// Ends the flight: whoever waits gets `outcome`, whoever comes later starts another.
    pub(super) fn land(self, outcome: Outcome<V>) {
        let joinable = Arc::clone(&self.joinable);
        drop(self);
        joinable.sender.send(outcome);
    }
}

impl<K: Copy + Eq + Hash, V> Flight<K, V> {
    /// Those who wait for it.
    pub(super) fn waiters(&self) -> Waiters<K, V> {
        Waiters {
            key: self.key,
            listeners: self.joinable.sender.listeners(),
            joinable: Arc::downgrade(&self.joinable),
            flights: Arc::clone(&self.flights),
        }
    }

    /// The span in which its task runs.
    pub(super) fn span(&self) -> &Span {
        self.joinable.span.get()
    }

    /// Whether this is still the flight for its key; not so after [`Flights::detach`].
    pub(super) fn is_current(&self) -> bool {
        let shard = self.flights.shard(&self.key).lock();
        shard.get(&self.key).is_some_and(|weak| self.is_mine(weak))
    }

    fn is_mine(&self, weak: &Weak<Joinable<V>>) -> bool {
        std::ptr::eq(weak.as_ptr(), Arc::as_ptr(&self.joinable))
    }
}

impl<K: Copy + Eq + Hash, V> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key).lock();
        if shard.get(&self.key).is_some_and(|weak| self.is_mine(weak)) {
            shard.remove(&self.key);
            if shard.capacity() > SHARD_KEEPS && shard.len() < shard.capacity() / 4 {
                let room = shard.len() * 2;
                shard.shrink_to(room.max(SHARD_KEEPS));
            }
        }
    }
}

/// Those who wait for a flight, as its own lookup sees them. Keeps nothing of the flight alive.
pub struct Waiters<K: Copy + Eq + Hash, V> {
    key: K,
    listeners: Listeners<Outcome<V>>,
    joinable: Weak<Joinable<V>>,
    flights: Arc<Flights<K, V>>,
}

impl<K: Copy + Eq + Hash, V> Waiters<K, V> {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.listeners.count()
    }

    /// Waits until all have left. From then on nobody joins the flight, and what it brings is not kept.
    ///
    /// A flight that nobody has waited for yet, as that of a refresh, waits for the first who leaves last.
    pub async fn all_left(&self) {
        loop {
            self.listeners.all_left().await;
            // Under the lock, under which callers join: whoever has come meanwhile is counted, and who comes later finds no flight.
            let mut shard = self.flights.shard(&self.key).lock();
            if self.count() == 0 {
                if shard
                    .get(&self.key)
                    .is_some_and(|weak| weak.ptr_eq(&self.joinable))
                {
                    shard.remove(&self.key);
                }
                return;
            }
        }
    }
}

/// One caller's wait for a flight. Dropping it changes nothing for anybody else.
pub struct Waiter<V> {
    receiver: Receiver<Outcome<V>>,
    collapsed: bool,
}

impl<V: Clone> Waiter<V> {
    /// Whether the flight was there already when this waiter came.
    #[must_use]
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }

    /// Waits for the flight to end. May be dropped at any time.
    ///
    /// # Errors
    ///
    /// If the lookup brought no value at all: it panicked, exceeded the limit, or was torn down.
    pub fn outcome(self) -> impl Future<Output = Outcome<V>> {
        let told = self.receiver.recv();
        told.map(|outcome| outcome.unwrap_or(Err(FlightError::Abandoned)))
    }
}
