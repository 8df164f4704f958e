//! The flight map: the fetches in progress and their waiters.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    time::Instant,
};

use futures_util::FutureExt as _;

use super::{
    broadcast::{self, Overloaded, Receiver, Receivers, WaiterLimit},
    error::FlightError,
    span::{FlightSpan, Span, SpanMaker},
    sync::{Arc, Mutex, RandomState, Weak},
};

/// Enough that two cores that start flights at the same time rarely contend for a lock. An empty shard is 64 bytes.
pub(super) const SHARDS: usize = 64;

/// A shard shrinks when less than a quarter of its capacity is used, but not below this.
pub(super) const MIN_SHARD_CAPACITY: usize = 32;

type Outcome<V> = Result<V, FlightError>;
type Shard<K, V> = HashMap<K, Weak<Joinable<V>>>;

/// The part of a flight that callers need to join it.
struct Joinable<V> {
    sender: broadcast::Sender<Outcome<V>>,
    started_at: Instant,
    span: FlightSpan,
}

/// A flight in progress, as monitoring sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FlightInfo<K> {
    /// The key that is fetched.
    pub key: K,
    /// When the flight started.
    pub started_at: Instant,
    /// The number of callers that wait for it.
    pub waiters: usize,
}

/// All flights in progress, and the number of callers that wait for them.
///
/// Each shard's lock is held for a lookup or an insertion in a map and never across an `await`. No foreign
/// code runs under it but the key's `Hash`, `Eq`, `Clone` and `Drop`. It does not poison.
pub(super) struct Flights<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    limit: Arc<WaiterLimit>,
    span_maker: SpanMaker,
}

/// The result of joining a flight.
pub(super) enum Joined<K: Eq + Hash, V> {
    /// There was a flight.
    Existing(Waiter<V>),
    /// There was none: the caller must run this one.
    New(Flight<K, V>, Waiter<V>),
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    pub(super) fn new(max_waiters: usize, span_maker: SpanMaker) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            limit: WaiterLimit::new(max_waiters),
            span_maker,
        })
    }

    /// Joins the flight for `key`, or opens one.
    pub(super) fn join(self: &Arc<Self>, key: K) -> Result<Joined<K, V>, Overloaded> {
        let caller = Span::current();
        let permit = self.limit.acquire()?;
        let mut shard = self.shard(&key).lock();
        if let Some(flight) = shard.get(&key).and_then(Weak::upgrade) {
            // Under the lock, under which a flight removes itself from the map before it sends: a caller that
            // finds a flight in the map receives its outcome.
            let receiver = flight.sender.subscribe(permit);
            drop(shard);
            flight.span.link(&caller);
            return Ok(Joined::Existing(Waiter {
                receiver,
                collapsed: true,
            }));
        }
        let span = FlightSpan::within(self.span_maker, &caller);
        let flight = self.open(key, span, &mut shard);
        drop(shard);
        let waiter = Waiter {
            receiver: flight.joinable.sender.subscribe(permit),
            collapsed: false,
        };
        // Created while the caller's span exists.
        flight.span();
        Ok(Joined::New(flight, waiter))
    }

    /// Opens a flight without a waiter. `None` if there is a flight already.
    pub(super) fn start(self: &Arc<Self>, key: K) -> Option<Flight<K, V>> {
        let mut shard = self.shard(&key).lock();
        let exists = shard.get(&key).and_then(Weak::upgrade).is_some();
        // A root span, since the flight outlives what the caller does.
        let flight = (!exists).then(|| self.open(key, FlightSpan::root(self.span_maker), &mut shard));
        drop(shard);
        if let Some(flight) = &flight {
            flight.joinable.span.link(&Span::current());
        }
        flight
    }

    fn open(self: &Arc<Self>, key: K, span: FlightSpan, shard: &mut Shard<K, V>) -> Flight<K, V> {
        let joinable = Arc::new(Joinable {
            sender: broadcast::Sender::new(&self.limit),
            started_at: Instant::now(),
            span,
        });
        shard.insert(key.clone(), Arc::downgrade(&joinable));
        Flight {
            key,
            joinable,
            flights: Arc::clone(self),
        }
    }
}

impl<K: Eq + Hash, V> Flights<K, V> {
    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        &self.shards[usize::from(byte) % SHARDS]
    }

    /// Detaches the flight for `key`: it goes on for its waiters, but can no longer be joined, and is not
    /// [current](Flight::is_current).
    pub(super) fn detach(&self, key: &K) {
        self.shard(key).lock().remove(key);
    }

    /// The number of flights in progress.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// The number of callers that wait.
    pub(super) fn waiter_count(&self) -> usize {
        self.limit.waiters()
    }

    /// The flights in progress, shard by shard: some may have ended meanwhile. A flight is upgraded under the
    /// lock under which it removes itself from the map, so it is never dropped here.
    pub(super) fn in_progress(&self) -> Vec<FlightInfo<K>>
    where
        K: Clone,
    {
        let mut flights = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            flights.extend(shard.iter().filter_map(|(key, weak)| {
                let flight = weak.upgrade()?;
                Some(FlightInfo {
                    key: key.clone(),
                    started_at: flight.started_at,
                    waiters: flight.sender.receiver_count(),
                })
            }));
        }
        flights
    }

    /// The number of flights that the map has allocated memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().capacity()).sum()
    }
}

/// One fetch in progress, owned by the task that runs it.
///
/// Dropping it removes it from the map, whether its fetch has ended, panicked, or was aborted with the
/// runtime. Without that, a flight that ends early would leave a dead entry forever. It removes itself and
/// nothing else: there may be another flight for its key by now.
pub(super) struct Flight<K: Eq + Hash, V> {
    key: K,
    /// The only lasting `Arc`; joining callers upgrade the map's `Weak` for the length of a subscription.
    joinable: Arc<Joinable<V>>,
    flights: Arc<Flights<K, V>>,
}

impl<K: Eq + Hash, V: Clone> Flight<K, V> {
    /// Ends the flight: its waiters get `outcome`, and the next caller starts another flight.
    pub(super) fn land(self, outcome: Outcome<V>) {
        let joinable = Arc::clone(&self.joinable);
        drop(self);
        joinable.sender.send(outcome);
    }
}

impl<K: Eq + Hash, V> Flight<K, V> {
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// The flight's waiters.
    pub(super) fn waiters(&self) -> Waiters<K, V>
    where
        K: Clone,
    {
        Waiters {
            key: self.key.clone(),
            receivers: self.joinable.sender.receivers(),
            joinable: Arc::downgrade(&self.joinable),
            flights: Arc::clone(&self.flights),
        }
    }

    /// The span in which its task runs.
    pub(super) fn span(&self) -> &Span {
        self.joinable.span.get()
    }

    /// Whether this is still the flight for its key; false after [`Flights::detach`].
    pub(super) fn is_current(&self) -> bool {
        let shard = self.flights.shard(&self.key).lock();
        shard.get(&self.key).is_some_and(|weak| self.is_mine(weak))
    }

    fn is_mine(&self, weak: &Weak<Joinable<V>>) -> bool {
        std::ptr::eq(weak.as_ptr(), Arc::as_ptr(&self.joinable))
    }
}

impl<K: Eq + Hash, V> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key).lock();
        if shard.get(&self.key).is_some_and(|weak| self.is_mine(weak)) {
            shard.remove(&self.key);
            if shard.capacity() > MIN_SHARD_CAPACITY && shard.len() < shard.capacity() / 4 {
                let capacity = shard.len() * 2;
                shard.shrink_to(capacity.max(MIN_SHARD_CAPACITY));
            }
        }
    }
}

/// The waiters of a flight, for its own fetch. Does not keep the flight alive.
pub struct Waiters<K, V> {
    key: K,
    receivers: Receivers<Outcome<V>>,
    joinable: Weak<Joinable<V>>,
    flights: Arc<Flights<K, V>>,
}

impl<K: Eq + Hash, V> Waiters<K, V> {
    /// The number of callers that wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.receivers.count()
    }

    /// Completes when all waiters have left. From then on the flight cannot be joined, and its result is not cached.
    ///
    /// If there have been no waiters yet, as in a refresh, waits until some have come and all have left.
    pub async fn all_left(&self) {
        loop {
            self.receivers.all_left().await;
            // Under the lock, under which callers join: those that have joined meanwhile are counted, later ones find no flight.
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

impl<K, V> fmt::Debug for Waiters<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters")
            .field("count", &self.receivers.count())
            .finish_non_exhaustive()
    }
}

/// One caller's wait for a flight. Dropping it changes nothing for anybody else.
#[must_use = "dropping it gives up the wait; use `refresh` to wait for nothing"]
pub struct Waiter<V> {
    receiver: Receiver<Outcome<V>>,
    collapsed: bool,
}

impl<V: Clone> Waiter<V> {
    /// Whether this caller joined a flight that another had started: `collapsed` in the terms of RFC 9211.
    #[must_use]
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }

    /// Waits for the flight to end. May be dropped at any time.
    ///
    /// # Errors
    ///
    /// If the fetch ended without a value: it panicked, took too long, or was aborted with its runtime.
    pub fn outcome(self) -> impl Future<Output = Result<V, FlightError>> {
        let received = self.receiver.recv();
        received.map(|outcome| outcome.unwrap_or(Err(FlightError::Aborted)))
    }
}

impl<V> fmt::Debug for Waiter<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("collapsed", &self.collapsed)
            .finish_non_exhaustive()
    }
}
