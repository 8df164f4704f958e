//! One lookup per key, however many ask: a cache in front of a slow, fallible source, with the lookups coalesced.
//!
//! This module stands on its own: it knows no YouTube and no gRPC, and imports nothing else of this crate.
//!
//! # The rule
//!
//! **A caller never drives a lookup. A task owns it; callers subscribe.** A caller may be cancelled at any `await`. If its
//! future were the one that drives the lookup, its leaving would end the lookup for everybody who waits, and the next in line
//! would start again. With impatient callers none is ever answered.
//!
//! # Two layers
//!
//! - The *keyed channel map* owns **who waits**: key → `Weak<broadcast::Sender>`. A flight is one lookup in
//!   progress; the task that runs it holds the only lasting `Arc` of the sender, so a flight that is gone cannot be joined.
//! - *moka's future cache* owns **what is known**: bounded by weight, evicting by its own policy. A flight runs its lookup
//!   inside `and_compute_with`, moka's gate for one key. Of moka's deduplicating calls this is the one that hands the entry in
//!   force to the lookup, so that a flight which comes second sees what the first has written and need not ask again, and a
//!   failure can be noted beside the last good answer. It is driven from a flight's task only, never by a caller.
//!
//! # Cancellation and panics
//!
//! A [`Waiter`] may be dropped at any time; the flight goes on, and its outcome is cached. A lookup that panics, exceeds the
//! limit or is torn down with its runtime ends as a [`FlightError`] at every waiter, once, and leaves nothing behind: the next
//! caller starts a new flight.
//!
//! ```
//! use std::{sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}}, time::Duration};
//! use plaque::coalesce::Coalescer;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let answers = Coalescer::<&str, u32>::new(
//!     1 << 20,                           // weight: at most a MiB …
//!     |_key, _value| 8,                  // … of 8 bytes each
//!     Duration::from_secs(10),           // a flight that takes longer is given up
//!     tokio::runtime::Handle::current(), // where flights run
//! );
//! let lookups = Arc::new(AtomicUsize::new(0));
//! let ask = || {
//!     let lookups = Arc::clone(&lookups);
//!     answers.join("the answer", move |_known| async move {
//!         lookups.fetch_add(1, Relaxed);
//!         42
//!     })
//! };
//! let (first, second) = (ask(), ask());
//! assert!(!first.collapsed() && second.collapsed());
//! drop(first); // gives up; the flight does not
//! assert_eq!(second.outcome().await, Ok(42));
//! assert_eq!(lookups.load(Relaxed), 1);
//! assert_eq!(answers.known(&"the answer").await, Some(42));
//! # }
//! ```

mod entry;
mod flight;

use std::{future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use moka::{future::Cache, ops::compute::Op};
use tokio::runtime::Handle;

use self::flight::{Flights, Joined};
pub use self::{
    entry::{Entry, Failed, Good},
    flight::{FlightError, Waiter},
};

/// A cache whose misses are coalesced.
///
/// `V` is cloned for every waiter and every hit: put an `Arc` there if it is larger than a pointer.
pub struct Coalescer<K, V> {
    known: Cache<K, V>,
    flights: Arc<Flights<K, V>>,
    limit: Duration,
    runtime: Handle,
}

impl<K, V> Coalescer<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A coalescer that keeps values of at most `capacity` in all, as `weigh` weighs them, and runs its flights on `runtime`.
    ///
    /// `limit` bounds the time of a flight, whatever its lookup does.
    pub fn new(
        capacity: u64,
        weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static,
        limit: Duration,
        runtime: Handle,
    ) -> Self {
        Self {
            known: Cache::builder().max_capacity(capacity).weigher(weigh).build(),
            flights: Arc::default(),
            limit,
            runtime,
        }
    }

    /// What is known of `key`, without a lookup.
    pub async fn known(&self, key: &K) -> Option<V> {
        self.known.get(key).await
    }

    /// Joins the flight for `key`; if there is none, starts one that runs `lookup`.
    ///
    /// `lookup` gets what is known at the moment it begins, which may be newer than what the caller saw: it should look again
    /// before it goes to the source. What it returns replaces what is known.
    pub fn join<F, Fut>(&self, key: K, lookup: F) -> Waiter<V>
    where
        F: FnOnce(Option<V>) -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        let (flight, waiter) = match self.flights.join(key) {
            Joined::Existing(waiter) => return waiter,
            Joined::New(flight, waiter) => (flight, waiter),
        };
        let known = self.known.clone();
        let limit = self.limit;
        // Owns the flight. Ended by its lookup, its limit or the runtime's shutdown; `flight` cleans up after all three.
        self.runtime.spawn(async move {
            let gate = known
                .entry(key)
                .and_compute_with(async |entry| Op::Put(lookup(entry.map(moka::Entry::into_value)).await));
            let outcome = AssertUnwindSafe(tokio::time::timeout(limit, gate))
                .catch_unwind()
                .await;
            flight.land(match outcome {
                Ok(Ok(result)) => result
                    .into_entry()
                    .map(moka::Entry::into_value)
                    .ok_or(FlightError::Abandoned),
                Ok(Err(_elapsed)) => Err(FlightError::TimedOut(limit)),
                Err(_panic) => Err(FlightError::Panicked),
            });
        });
        waiter
    }

    /// The number of lookups in progress.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.flights.len()
    }
}
