//! A cache for async Rust with single-flight fetches that survive cancelled callers and panics.
//!
//! A [`Coalescer`] is a [moka] cache in front of a slow, fallible or rate-limited source. Concurrent misses
//! for one key share one fetch, called a *flight*. A task owns the flight; callers only subscribe to it. So a
//! caller may time out, lose a `select!` or disconnect at any moment without ending the fetch for everybody
//! else.
//!
//! # When to use it
//!
//! Use it when many callers want few keys, fetches are slow, costly or limited, and callers are impatient.
//!
//! **moka alone is enough** if callers are never cancelled in the middle of a fetch, and a panic may simply
//! be tried again by the next caller. [`moka::future::Cache::get_with`] runs the fetch inside the future of
//! one of its callers: when that is dropped, the next waiting caller starts over. With deadlines shorter than
//! a fetch, no caller ever gets an answer. The README has measurements of both, and of other crates.
//!
//! # Quick start
//!
//! ```
//! use coalesce::Coalescer;
//! # async fn load_profile(id: u64) -> String { format!("user {id}") }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), coalesce::Error> {
//!     let profiles = Coalescer::new(10_000); // entries
//!
//!     // For any number of concurrent callers, `load_profile` runs once. Cloning `profiles` is cheap.
//!     let profile = profiles.get_or_fetch(7, || load_profile(7)).await?;
//!     assert_eq!(profile, "user 7");
//!
//!     // From here on it is a hit.
//!     assert_eq!(profiles.get(&7).await.as_deref(), Some("user 7"));
//!     Ok(())
//! }
//! ```
//!
//! Values are cloned for every hit and every waiter: wrap them in an `Arc` if that is not cheap.
//!
//! # Guarantees
//!
//! - **One flight per key.** A caller that asks while a flight is in progress joins it.
//! - **A caller that goes away does not end the flight.** Its result is cached, and newcomers join it.
//! - **A panic reaches all waiters**, once, as [`FlightError::Panicked`]. So do a time-out and the end of
//!   the runtime. None of them leaves anything behind: the next caller starts a new flight.
//! - **A result is cached before its waiters wake**, so that later callers do not fetch again.
//! - **Older results never replace newer values.** See [below](#updates-and-invalidation).
//! - **Memory is bounded.** Cached values by [capacity](Builder::weigher), waiting callers by
//!   [`Builder::max_waiters`].
//! - **Progress is independent.** No lock is held during a fetch, and keys do not wait for each other.
//!
//! The flight map is model-checked with [shuttle](https://docs.rs/shuttle).
//!
//! # Fetches that fail
//!
//! A fetch returns a value, whatever that is. If it can fail, let the value be a `Result`: all waiters get
//! the same error, and [`Builder::retention`] decides whether it is cached, and where.
//! [`Builder::expire_after_write`] decides for how long.
//!
//! ```
//! use std::time::Duration;
//! use coalesce::{Coalescer, Retention};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coalesce::Error> {
//! #[derive(Clone, Debug, PartialEq)]
//! enum LoadError { NotFound, Unreachable }
//!
//! let cache = Coalescer::<&str, Result<u32, LoadError>>::builder(10_000)
//!     .low_priority_capacity(1_000)
//!     .retention(|_key, value| match value {
//!         Ok(_) => Retention::Keep,
//!         // Misses evict other misses only, however many invalid keys are requested.
//!         Err(LoadError::NotFound) => Retention::LowPriority,
//!         // Says nothing about the key. What was cached before stays.
//!         Err(LoadError::Unreachable) => Retention::Discard,
//!     })
//!     .expire_after_write(|_key, value| value.is_err().then_some(Duration::from_secs(30)))
//!     .build();
//!
//! let outcome = cache.get_or_fetch("gone", || async { Err(LoadError::NotFound) }).await?;
//! assert_eq!(outcome, Err(LoadError::NotFound));
//! assert_eq!(cache.get(&"gone").await, Some(Err(LoadError::NotFound)));
//!
//! let outcome = cache.get_or_fetch("down", || async { Err(LoadError::Unreachable) }).await?;
//! assert_eq!(outcome, Err(LoadError::Unreachable));
//! assert_eq!(cache.get(&"down").await, None);
//! # Ok(()) }
//! ```
//!
//! # Freshness
//!
//! Whether a cached value is fresh enough is the caller's decision: [`get`](Coalescer::get) returns it,
//! [`join`](Coalescer::join) fetches a newer one, and [`refresh`](Coalescer::refresh) does so in the
//! background. This is what stale-while-revalidate is made of; `examples/stale_while_revalidate.rs` shows it.
//!
//! `join` and `refresh` pass the fetch a [`FetchContext`] with the value that is cached when the flight
//! starts, which may be newer than what the caller saw.
//!
//! ```
//! # use coalesce::Coalescer;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coalesce::Error> {
//! let counter = Coalescer::<&str, u32>::new(100);
//! for expected in 1..=3 {
//!     let waiter = counter.join("key", |context| async move { context.cached.unwrap_or(0) + 1 })?;
//!     assert_eq!(waiter.outcome().await?, expected);
//! }
//! # Ok(()) }
//! ```
//!
//! # Cancellation and panics
//!
//! All futures of a [`Coalescer`] may be dropped at any time.
//!
//! ```
//! # use coalesce::{Coalescer, FlightError};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coalesce::Error> {
//! # std::panic::set_hook(Box::new(|_| {}));
//! # let cache = Coalescer::<&str, u32>::new(100);
//! drop(cache.join("slow", |_| async { 1 })?); // this caller gives up; the fetch does not
//! let newcomer = cache.join("slow", |_| async { 2 })?;
//! assert!(newcomer.collapsed());
//! assert_eq!(newcomer.outcome().await, Ok(1));
//!
//! let unlucky = cache.join("bug", |_| async { panic!("a bug in the fetch") })?;
//! assert_eq!(unlucky.outcome().await, Err(FlightError::Panicked));
//! let next = cache.join("bug", |_| async { 3 })?;
//! assert_eq!(next.outcome().await, Ok(3));
//! # Ok(()) }
//! ```
//!
//! Since callers do not end a flight, [`Builder::flight_timeout`] does: 30 s by default.
//!
//! A fetch that only waits for its turn, for a permit or in a queue, is of no use once all its callers have
//! left. It can find out with [`Waiters::all_left`] and give up; then it can no longer be joined, and its result is
//! not cached.
//!
//! ```
//! # use coalesce::Coalescer;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coalesce::Error> {
//! # let cache = Coalescer::<&str, u32>::new(100);
//! let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(0)); // none is free
//! let queued = cache.join("key", move |context| async move {
//!     tokio::select! {
//!         _permit = permits.acquire() => 1,
//!         () = context.waiters.all_left() => 0,
//!     }
//! })?;
//! tokio::task::yield_now().await;
//! drop(queued);
//! tokio::task::yield_now().await;
//! assert_eq!((cache.flight_count(), cache.get(&"key").await), (0, None));
//! # Ok(()) }
//! ```
//!
//! # Updates and invalidation
//!
//! Flights and writes for a key have an order: that in which they started. A flight's result is cached unless
//! a newer value was written meanwhile ([`insert`](Coalescer::insert), [`update`](Coalescer::update)), which
//! its waiters get instead, or the key was [invalidated](Coalescer::invalidate) meanwhile.
//!
//! ```
//! # use coalesce::Coalescer;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coalesce::Error> {
//! # let cache = Coalescer::<&str, u32>::new(100);
//! let in_flight = cache.join("key", |_| async { 1 })?;
//! cache.invalidate(&"key").await;
//! assert_eq!(in_flight.outcome().await, Ok(1)); // it was asked for before the invalidation
//! assert_eq!(cache.get(&"key").await, None);
//! # Ok(()) }
//! ```
//!
//! # Errors
//!
//! | error | when | what the caller may do |
//! | --- | --- | --- |
//! | [`Overloaded`] | [`Builder::max_waiters`] callers wait already; no flight is started | shed the request |
//! | [`FlightError::Panicked`] | the fetch panicked, or the weigher or another closure of the [`Builder`] | treat it as a bug in them |
//! | [`FlightError::TimedOut`] | the fetch took longer than [`Builder::flight_timeout`] | try again later |
//! | [`FlightError::Aborted`] | the runtime that ran the flight shut down | nothing: the program is ending |
//!
//! [`get_or_fetch`](Coalescer::get_or_fetch) returns [`Error`], which is either.
//!
//! # Runtime
//!
//! Flights are tokio tasks. They run on [`Builder::runtime`], or else on the runtime of the caller that
//! starts them. Name one if callers live on short-lived runtimes, or if fetches must not share threads with
//! them. A flight timeout needs a runtime with its timer enabled
//! ([`enable_time`](tokio::runtime::Builder::enable_time)).
//!
//! # Features
//!
//! - `tracing` (off by default): each flight runs in a span that is linked with the spans of all its callers
//!   (`follows_from`, both ways). `Builder::make_span_with` sets what span that is.
//!
//! # Cost
//!
//! A hit is one `get` of moka's plus 2 to 5 % of instructions. A miss takes one sharded lock for a few
//! instructions; starting a flight spawns a task, joining one subscribes to its channel. A [`Waiter`] is 16
//! bytes, and 88 as a future. The waiters of a flight wake without taking a lock.
//!
//! # How it works
//!
//! - *moka's future cache* owns the values. Its `and_compute_with` serializes all writers of a key and hands
//!   each the current entry, so that the newer value wins in any order. It is not held during a fetch:
//!   neither an update nor an invalidation waits for a slow source.
//! - The *flight map* (sharded; key → `Weak` broadcast channel) owns the waiters. Callers subscribe under a
//!   shard's lock. A flight removes itself from the map, under that lock, before it sends, so every caller
//!   that joins receives the outcome. The task that runs a flight owns the only lasting `Arc`, so a
//!   flight that is gone cannot be joined.

mod broadcast;
mod builder;
mod cache;
mod coalescer;
mod error;
mod flight;
#[cfg_attr(not(feature = "tracing"), path = "no_span.rs")]
mod span;
mod sync;
#[cfg(test)]
mod tests;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use self::{
    broadcast::Overloaded,
    builder::{Builder, Retention},
    coalescer::{Coalescer, Error, FetchContext},
    error::FlightError,
    flight::{FlightInfo, Waiter, Waiters},
};
