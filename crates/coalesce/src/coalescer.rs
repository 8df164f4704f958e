//! The coalescer: a cache, a flight map, and the tasks that run flights.

use std::{
    borrow::Borrow,
    fmt,
    hash::Hash,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use super::{
    Builder, FlightError, FlightInfo, Overloaded, Waiter, Waiters,
    cache::Cache,
    flight::{Flight, Flights, Joined},
    span,
};

/// A cache whose misses are coalesced: concurrent fetches of one key are one fetch.
///
/// A handle: clones share cache and flights. The [crate page](crate) says what it guarantees.
pub struct Coalescer<K, V>(Arc<Inner<K, V>>);

struct Inner<K, V> {
    cache: Cache<K, V>,
    flights: Arc<Flights<K, V>>,
    flights_started: AtomicU64,
    flight_timeout: Option<Duration>,
    runtime: Option<Handle>,
}

/// What a fetch starts with.
#[non_exhaustive]
pub struct FetchContext<K, V> {
    /// The value that is cached when the flight starts. It may be newer than what the caller saw: another
    /// flight may have landed in between.
    pub cached: Option<V>,
    /// The waiters of the flight.
    pub waiters: Waiters<K, V>,
}

/// Why [`Coalescer::get_or_fetch`] returned no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many callers wait already.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The fetch ended without a value.
    #[error(transparent)]
    Flight(#[from] FlightError),
}

impl<K, V> Coalescer<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Makes a coalescer that caches up to `max_capacity` entries, with the defaults of [`Builder`].
    #[must_use]
    pub fn new(max_capacity: u64) -> Self {
        Self::builder(max_capacity).build()
    }

    /// Starts to build a coalescer with a capacity of `max_capacity`, in entries unless there is a
    /// [weigher](Builder::weigher).
    pub fn builder(max_capacity: u64) -> Builder<K, V> {
        Builder::new(max_capacity)
    }

    pub(crate) fn from_builder(builder: Builder<K, V>) -> Self {
        Self(Arc::new(Inner {
            flights: Flights::new(builder.max_waiters, builder.span_maker),
            flights_started: AtomicU64::new(0),
            flight_timeout: builder.flight_timeout,
            runtime: builder.runtime.clone(),
            cache: Cache::new(builder),
        }))
    }

    /// Returns the cached value of `key`, without a fetch.
    pub async fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.cache.get(key).await
    }

    /// Returns the cached value of `key`, or else the result of `fetch`, which runs once for all concurrent callers.
    ///
    /// May be dropped at any time; the fetch goes on.
    ///
    /// # Errors
    ///
    /// If too many callers wait already, or the fetch panics or takes too long.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, unless there is a [`Builder::runtime`].
    pub async fn get_or_fetch<F, Fut>(&self, key: K, fetch: F) -> Result<V, Error>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        if let Some(value) = self.get(&key).await {
            return Ok(value);
        }
        let waiter = self.join(key, |context| async move {
            match context.cached {
                Some(value) => value,
                None => fetch().await,
            }
        })?;
        Ok(waiter.outcome().await?)
    }

    /// Joins the flight for `key`; if there is none, starts one that runs `fetch`. Does not look into the cache first.
    ///
    /// Returns at once. The flight runs whether the [`Waiter`] is polled or not.
    ///
    /// # Errors
    ///
    /// If [`Builder::max_waiters`] callers wait already.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, unless there is a [`Builder::runtime`].
    pub fn join<F, Fut>(&self, key: K, fetch: F) -> Result<Waiter<V>, Overloaded>
    where
        F: FnOnce(FetchContext<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        match self.0.flights.join(key)? {
            Joined::Existing(waiter) => Ok(waiter),
            Joined::New(flight, waiter) => {
                self.start(flight, fetch);
                Ok(waiter)
            }
        }
    }

    /// Starts a flight for `key` that runs `fetch`, unless there is one, and does not wait for it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, unless there is a [`Builder::runtime`].
    pub fn refresh<F, Fut>(&self, key: K, fetch: F)
    where
        F: FnOnce(FetchContext<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        if let Some(flight) = self.0.flights.start(key) {
            self.start(flight, fetch);
        }
    }

    fn start<F, Fut>(&self, flight: Flight<K, V>, fetch: F)
    where
        F: FnOnce(FetchContext<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let sequence = inner.cache.next_sequence();
        inner.flights_started.fetch_add(1, Relaxed);
        let span = flight.span().clone();
        let waiters = flight.waiters();
        // Owns the flight. Ended by its fetch, its time limit or the runtime's shutdown; dropping `flight`
        // cleans up after all three.
        let task = async move {
            let cache = &inner.cache;
            let fetched = async {
                let cached = cache.get(flight.key()).await;
                fetch(FetchContext { cached, waiters }).await
            };
            let cached = async {
                let value = limited(inner.flight_timeout, fetched).await?;
                let is_current = || flight.is_current();
                Ok(cache
                    .put_if_newer(flight.key(), value, sequence, is_current)
                    .await)
            };
            let outcome = AssertUnwindSafe(cached).catch_unwind().await;
            let outcome = outcome.unwrap_or(Err(FlightError::Panicked));
            if let Err(error) = &outcome {
                span::record(error);
            }
            flight.land(outcome);
        };
        let task = span.instrument(task);
        match &self.0.runtime {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        };
    }

    /// Caches `value`, as the newest there is. Flights in progress go on, but do not replace it.
    ///
    /// Subject to [`Builder::retention`].
    pub async fn insert(&self, key: K, value: V) {
        self.update(key, |_current| Some(value)).await;
    }

    /// Atomically replaces the value of `key` with `change(current)`, as the newest there is; `None` leaves it. Flights in
    /// progress go on, but do not replace it.
    ///
    /// Subject to [`Builder::retention`]. Writers of a key take turns, so `change` should be quick.
    pub async fn update(&self, key: K, change: impl FnOnce(Option<&V>) -> Option<V>) {
        self.0.cache.update(&key, change).await;
    }

    /// Removes the value of `key`. A flight in progress goes on for its waiters, but its result is
    /// not cached; the next caller starts another.
    pub async fn invalidate(&self, key: &K) {
        // In this order: a flight that is detached no longer writes, and what it has written before is removed.
        self.0.flights.detach(key);
        self.0.cache.remove(key).await;
    }

    /// The number of flights in progress.
    #[must_use]
    pub fn flight_count(&self) -> usize {
        self.0.flights.len()
    }

    /// The number of callers that wait.
    #[must_use]
    pub fn waiter_count(&self) -> usize {
        self.0.flights.waiter_count()
    }

    /// The flights in progress, in no order. Not a snapshot: some may have ended meanwhile.
    #[must_use]
    pub fn flights(&self) -> Vec<FlightInfo<K>> {
        self.0.flights.in_progress()
    }

    /// The number of flights started so far.
    #[must_use]
    pub fn flights_started(&self) -> u64 {
        self.0.flights_started.load(Relaxed)
    }

    /// All cached entries, in no order. Others may write meanwhile.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.0.cache.iter()
    }

    /// Runs the cache's pending maintenance, which otherwise runs now and then: evicts, expires, and counts what is left.
    pub async fn run_pending_tasks(&self) {
        self.0.cache.run_pending_tasks().await;
    }

    /// The number of entries at the last maintenance.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.0.cache.entry_count()
    }

    /// The total weight of the entries at the last maintenance.
    #[must_use]
    pub fn weighted_size(&self) -> u64 {
        self.0.cache.weighted_size()
    }

    /// The number of entries evicted so far for lack of capacity.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.0.cache.evictions()
    }

    /// The number of entries expired so far.
    #[must_use]
    pub fn expirations(&self) -> u64 {
        self.0.cache.expirations()
    }
}

async fn limited<V>(limit: Option<Duration>, fetched: impl Future<Output = V>) -> Result<V, FlightError> {
    // Pinned once, so that the future does not have room for it in each branch.
    let fetched = pin!(fetched);
    match limit {
        Some(limit) => {
            let fetched = tokio::time::timeout(limit, fetched).await;
            fetched.map_err(|_elapsed| FlightError::TimedOut(limit))
        }
        None => Ok(fetched.await),
    }
}

impl<K, V> Clone for Coalescer<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> fmt::Debug for Coalescer<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer")
            .field("entry_count", &self.entry_count())
            .field("flight_count", &self.flight_count())
            .field("waiter_count", &self.waiter_count())
            .finish_non_exhaustive()
    }
}

impl<K, V: fmt::Debug> fmt::Debug for FetchContext<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchContext")
            .field("cached", &self.cached)
            .field("waiters", &self.waiters)
            .finish()
    }
}
