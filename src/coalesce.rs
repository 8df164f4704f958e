//! One lookup per key, however many ask: a cache in front of a slow, fallible source, with the lookups coalesced.
//!
//! This module stands on its own: it knows no YouTube and no gRPC, and imports nothing else of this crate.
//!
//! # When to use it
//!
//! Many callers ask for few keys, a lookup is slow or costly or limited, and callers are impatient: they have deadlines, they
//! hang up, they come in storms. One lookup per key is in progress at a time; everybody who asks meanwhile waits for that one.
//!
//! ```
//! use std::{sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}}};
//! use plaque::coalesce::{Coalescer, Limits};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let answers = Coalescer::<&str, u32>::new(
//!     Limits::default(),
//!     |_key, _value| 8,                  // what an entry weighs, in bytes
//!     tokio::runtime::Handle::current(), // where lookups run
//! );
//! let lookups = Arc::new(AtomicUsize::new(0));
//! let ask = || {
//!     let lookups = Arc::clone(&lookups);
//!     answers.join("the answer", move |_known| async move {
//!         lookups.fetch_add(1, Relaxed);
//!         42
//!     })
//! };
//! let (first, second) = (ask()?, ask()?);
//! assert!(!first.collapsed() && second.collapsed());
//! assert_eq!(first.outcome().await, Ok(42));
//! assert_eq!(second.outcome().await, Ok(42));
//! assert_eq!(lookups.load(Relaxed), 1);
//! // What was found is known from here on. Whether it is new enough is the caller's to judge.
//! assert_eq!(answers.known(&"the answer").await, Some(42));
//! # Ok(()) }
//! ```
//!
//! # Cancellation and panics
//!
//! **A caller never drives a lookup. A task owns it; callers subscribe.** A caller may be cancelled at any `await`. If its
//! future were the one that drives the lookup, its leaving would end the lookup for everybody who waits, and the next in line
//! would start again: with impatient callers none is ever answered.
//!
//! A [`Waiter`] may therefore be dropped at any time; the flight goes on, a newcomer joins it, and its outcome is cached. A
//! lookup that panics, exceeds the limit or is torn down with its runtime ends as a [`FlightError`] at every waiter, once, and
//! leaves nothing behind: the next caller starts a new flight.
//!
//! ```
//! # use plaque::coalesce::{Coalescer, FlightError, Limits};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # std::panic::set_hook(Box::new(|_| {}));
//! # let answers = Coalescer::<&str, u32>::new(Limits::default(), |_, _| 8, tokio::runtime::Handle::current());
//! drop(answers.join("slow", |_known| async { 1 })?); // gives up; the lookup does not
//! let newcomer = answers.join("slow", |_known| async { 2 })?;
//! assert_eq!(newcomer.outcome().await, Ok(1));
//!
//! let unlucky = answers.join("bug", |_known| async { panic!("a bug in the lookup") })?;
//! assert_eq!(unlucky.outcome().await, Err(FlightError::Panicked));
//! let next = answers.join("bug", |_known| async { 3 })?;
//! assert_eq!(next.outcome().await, Ok(3));
//! # Ok(()) }
//! ```
//!
//! # Old and new
//!
//! Every lookup has a place in the order in which lookups begin. What it brings is kept unless something newer is known by
//! then ([`Coalescer::update`]), or its key was invalidated meanwhile: a late result never replaces a newer one, and an
//! [invalidation](Coalescer::invalidate) is not undone by a flight that was in the air.
//!
//! ```
//! # use plaque::coalesce::{Coalescer, Limits};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let answers = Coalescer::<&str, u32>::new(Limits::default(), |_, _| 8, tokio::runtime::Handle::current());
//! let in_the_air = answers.join("key", |_known| async { 1 })?;
//! answers.invalidate(&"key").await;
//! assert_eq!(in_the_air.outcome().await, Ok(1)); // they asked before
//! assert_eq!(answers.known(&"key").await, None);
//! # Ok(()) }
//! ```
//!
//! What a lookup brings need not be kept: it may say nothing of its key ([`Coalescer::keeping`]). Those who wait are told, and what
//! was known before stays. And what is worth little has a place of its own, so that it pushes nothing out that is worth more.
//!
//! # Lookups that nobody waits for
//!
//! A lookup that only waits for its turn is of no use when all its callers have left. It can wait for that as well
//! ([`Waiters::all_left`]), and end without having asked: nobody joins it any more, and the next caller starts another.
//!
//! ```
//! # use plaque::coalesce::{Coalescer, Limits};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let answers = Coalescer::<&str, u32>::new(Limits::default(), |_, _| 8, tokio::runtime::Handle::current());
//! let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(0)); // none is free
//! let queued = answers.join("key", move |lookup| async move {
//!     tokio::select! {
//!         _turn = turns.acquire() => 1,
//!         () = lookup.waiters.all_left() => 0, // told to nobody, and not kept
//!     }
//! })?;
//! tokio::task::yield_now().await;
//! drop(queued);
//! tokio::task::yield_now().await;
//! assert_eq!((answers.flights(), answers.known(&"key").await), (0, None));
//! # Ok(()) }
//! ```
//!
//! # Memory
//!
//! What is known is bounded by weight; those least in demand make room. Who waits is bounded by [`Limits::waiters`]: the caller
//! over it gets [`Overloaded`] at once, and the flight and the other waiters feel nothing. A flight that has ended leaves
//! nothing, and the map gives its memory back.
//!
//! ```
//! # use plaque::coalesce::{Coalescer, Limits, Overloaded};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limits = Limits { waiters: 1, ..Limits::default() };
//! let answers = Coalescer::<&str, u32>::new(limits, |_, _| 8, tokio::runtime::Handle::current());
//! let first = answers.join("key", |_known| async { 1 }).unwrap();
//! assert_eq!(answers.join("key", |_known| async { 1 }).err(), Some(Overloaded(1)));
//! assert_eq!(first.outcome().await, Ok(1));
//! assert_eq!((answers.flights(), answers.waiting()), (0, 0));
//! # }
//! ```
//!
//! # Cost
//!
//! A hit is one `get` of moka's. A miss takes one sharded lock for a few instructions; whoever starts a flight spawns a task,
//! whoever joins one subscribes to its channel: a waiter is 16 bytes, and 88 as a future. `benches/coalesce.rs` measures both
//! beside other caches.
//!
//! # Two layers
//!
//! - The *keyed channel map* owns **who waits**: key → `Weak<broadcast::Sender>`. A flight is one lookup in progress; the task
//!   that runs it holds the only lasting `Arc` of the sender, so a flight that is gone cannot be joined. The channel is one of its
//!   own, for a single message: whoever wakes takes no lock.
//! - *moka's future cache* owns **what is known**: bounded by weight, evicting by its own policy. Its `and_compute_with` is the
//!   gate through which every writer goes: it serialises them per key and hands each the entry in force, so that the newer one
//!   wins whoever comes first. It is driven from a flight's task or by a writer, never by a caller who waits, and it is not held
//!   during a lookup: an invalidation or a newer answer from elsewhere need not wait for a slow source.

mod broadcast;
mod cache;
mod entry;
mod flight;
mod span;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tracing::{Instrument as _, Span};

pub use self::{
    broadcast::Overloaded,
    cache::Keep,
    entry::{Asked, Entry, Failed, Good},
    flight::{FlightError, InProgress, Waiter, Waiters},
};
use self::{
    cache::Cache,
    flight::{Flight, Flights, Joined},
};

/// What a [`Coalescer`] may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What all that is known may weigh together, in whatever unit it is weighed.
    pub weight: u64,
    /// What all that is [kept apart](Keep::Apart) may weigh together, beside that.
    pub minor_weight: u64,
    /// How long anything is kept after it was last written.
    pub keep_for: Duration,
    /// How long a lookup may take, whatever it does.
    pub flight: Duration,
    /// How many callers may wait at once, over all keys.
    pub waiters: usize,
}

impl Default for Limits {
    /// 64 MiB and 4 MiB if weighed in bytes, kept for a day; lookups of 10 s; 100,000 waiters.
    fn default() -> Self {
        Self {
            weight: 64 << 20,
            minor_weight: 4 << 20,
            keep_for: Duration::from_hours(24),
            flight: Duration::from_secs(10),
            waiters: 100_000,
        }
    }
}

/// A cache whose misses are coalesced.
///
/// `V` is cloned for every waiter and every hit: put an `Arc` there if it is larger than a pointer.
pub struct Coalescer<K, V> {
    known: Arc<Cache<K, V>>,
    flights: Arc<Flights<K, V>>,
    begun: AtomicU64,
    flight_limit: Duration,
    runtime: Handle,
}

/// What a lookup begins with.
pub struct Start<K: Copy + Eq + Hash, V> {
    /// What is known at this moment, which may be newer than what the caller saw.
    pub known: Option<V>,
    /// Those who wait for the lookup.
    pub waiters: Waiters<K, V>,
}

impl<K, V> Coalescer<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A coalescer that keeps to `limits`, with entries that weigh what `weigh` says and lookups that run on `runtime`.
    pub fn new(
        limits: Limits,
        weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static,
        runtime: Handle,
    ) -> Self {
        Self {
            known: Arc::new(Cache::new(&limits, weigh)),
            flights: Flights::new(limits.waiters),
            begun: AtomicU64::new(0),
            flight_limit: limits.flight,
            runtime,
        }
    }

    /// Has `judge` decide what is kept, and where. Without it all is kept, in one place.
    #[must_use]
    pub fn keeping(mut self, judge: fn(&V) -> Keep) -> Self {
        if let Some(known) = Arc::get_mut(&mut self.known) {
            known.keeping(judge);
        }
        self
    }

    /// What is known of `key`, without a lookup.
    pub async fn known(&self, key: &K) -> Option<V> {
        self.known.get(key).await
    }

    /// Joins the flight for `key`; if there is none, starts one that runs `lookup`.
    ///
    /// `lookup` gets what is known at the moment it begins: it should look again before it goes to the source. What it returns replaces
    /// what is known, if it is [kept](Self::keeping).
    ///
    /// # Errors
    ///
    /// If as many callers wait as may.
    pub fn join<F, Fut>(&self, key: K, lookup: F) -> Result<Waiter<V>, Overloaded>
    where
        F: FnOnce(Start<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        match self.flights.join(key)? {
            Joined::Existing(waiter) => Ok(waiter),
            Joined::New(flight, waiter) => {
                self.fly(key, flight, lookup);
                Ok(waiter)
            }
        }
    }

    /// Starts a flight for `key` that runs `lookup`, if there is none, and waits for nothing.
    pub fn refresh<F, Fut>(&self, key: K, lookup: F)
    where
        F: FnOnce(Start<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        if let Some(flight) = self.flights.start(key) {
            self.fly(key, flight, lookup);
        }
    }

    fn fly<F, Fut>(&self, key: K, flight: Flight<K, V>, lookup: F)
    where
        F: FnOnce(Start<K, V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        let known = Arc::clone(&self.known);
        let limit = self.flight_limit;
        let stamp = known.stamp();
        self.begun.fetch_add(1, Ordering::Relaxed);
        let span = flight.span().clone();
        let waiters = flight.waiters();
        // Owns the flight. Ended by its lookup, its limit or the runtime's shutdown; `flight` cleans up after all three.
        let task = async move {
            let found = async {
                let known = known.get(&key).await;
                lookup(Start { known, waiters }).await
            };
            let kept = async {
                match tokio::time::timeout(limit, found).await {
                    Ok(value) => Ok(known.keep(key, value, stamp, || flight.is_current()).await),
                    Err(_elapsed) => Err(FlightError::TimedOut(limit)),
                }
            };
            let outcome = AssertUnwindSafe(kept).catch_unwind().await;
            let outcome = outcome.unwrap_or(Err(FlightError::Panicked));
            if let Err(error) = &outcome {
                let span = Span::current();
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", error.to_string());
            }
            flight.land(outcome);
        };
        self.runtime.spawn(task.instrument(span));
    }

    /// Makes known what `change` makes of what is known by then, as the newest that there is, unless that is `None`. Flights in the air
    /// go on, but will not replace it.
    pub async fn update(&self, key: K, change: impl FnOnce(Option<&V>) -> Option<V>) {
        self.known.update(key, change).await;
    }

    /// Forgets what is known of `key`. A flight in the air goes on for those who wait for it, but what it brings is not kept;
    /// whoever asks from now on starts another.
    pub async fn invalidate(&self, key: &K) {
        // In this order: what a flight keeps after this, it has found detached; what it kept before, is removed now.
        self.flights.detach(key);
        self.known.remove(key).await;
    }

    /// The number of lookups in progress.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// The number of callers who wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// The lookups in progress.
    #[must_use]
    pub fn in_progress(&self) -> Vec<InProgress<K>> {
        self.flights.in_progress()
    }

    /// The lookups that were begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// All that is known, in no order. As long as it is read, others may write.
    pub fn all(&self) -> impl Iterator<Item = (K, V)> {
        self.known.all()
    }

    /// Lets the cache do now what it does now and then: remove what is too old or too much, and count what is left.
    pub async fn tidy(&self) {
        self.known.tidy().await;
    }

    /// The number of entries, when the cache last counted.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.known.entries()
    }

    /// What they weigh together.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.known.weight()
    }

    /// The entries that had to go so far because there were too many.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.known.evicted()
    }

    /// The entries that had to go so far because they were too old.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.known.expired()
    }
}
