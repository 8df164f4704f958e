//! What is cached for a feed: the last successful lookup, and the failure since.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

/// The last success and the last failure. At least one of them is there.
///
/// Ages are computed from [`Instant`]s, which no change of the wall clock disturbs.
#[derive(Debug)]
pub struct CacheEntry<T, E> {
    /// The last lookup that succeeded.
    pub good: Option<Success<T>>,
    /// The lookup that failed since, if one did.
    pub failed: Option<Failure<E>>,
    /// How often it was served since.
    pub hits: HitCount,
}

/// Counts how often an entry is served. It lies beside the reference count of the entry, which every caller changes anyway.
#[derive(Debug, Default)]
pub struct HitCount(AtomicU32);

impl HitCount {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The count.
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// A successful lookup.
#[derive(Clone, Debug)]
pub struct Success<T> {
    /// The answer.
    pub value: T,
    /// When it came.
    pub at: Instant,
    /// When it came, by the wall clock: to be shown, never to be computed with.
    pub time: SystemTime,
}

/// A failed lookup.
#[derive(Clone, Debug)]
pub struct Failure<E> {
    /// Why it failed.
    pub error: E,
    /// When.
    pub at: Instant,
    /// No other lookup before this.
    pub retry_at: Instant,
    /// How many lookups in a row have failed in this way, this one included.
    pub streak: u32,
}

impl<T, E> CacheEntry<T, E> {
    /// The entry of a lookup that succeeded at `now`. Earlier failures are forgotten.
    pub fn succeeded(value: T, now: Instant, time: SystemTime) -> Self {
        Self {
            good: Some(Success { value, at: now, time }),
            failed: None,
            hits: HitCount::default(),
        }
    }

    /// The entry of a lookup that failed. The last good answer stays.
    pub fn failed(good: Option<Success<T>>, failed: Failure<E>) -> Self {
        Self {
            good,
            failed: Some(failed),
            hits: HitCount::default(),
        }
    }

    /// When a lookup last ended, well or badly.
    #[must_use]
    pub fn last_attempt(&self) -> Option<Instant> {
        let good = self.good.as_ref().map(|good| good.at);
        let failed = self.failed.as_ref().map(|failed| failed.at);
        good.max(failed)
    }
}

impl<T> Success<T> {
    /// How old the answer is.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}
