//! What a cache keeps of one key: the last good answer, and what has gone wrong since.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

/// A last good answer and a last failure. At least one of them is there.
///
/// Ages are reckoned from [`Instant`]s, which no change of the wall clock disturbs.
#[derive(Debug)]
pub struct Entry<T, E> {
    /// The last good answer.
    pub good: Option<Good<T>>,
    /// The lookup that failed since, if one did.
    pub failed: Option<Failed<E>>,
    /// How often it was asked for.
    pub asked: Asked,
}

/// Counts who asks for an entry. It lies beside the count of the entry's owners, which whoever asks changes anyway.
#[derive(Debug, Default)]
pub struct Asked(AtomicU32);

impl Asked {
    /// Counts one more.
    pub fn once_more(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many there were.
    pub fn times(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// A good answer.
#[derive(Clone, Debug)]
pub struct Good<T> {
    /// The answer.
    pub value: T,
    /// When it came.
    pub at: Instant,
    /// When it came, by the wall clock: to be told, never to be reckoned with.
    pub time: SystemTime,
}

/// A failed lookup.
#[derive(Clone, Debug)]
pub struct Failed<E> {
    /// Why it failed.
    pub error: E,
    /// When.
    pub at: Instant,
    /// No other lookup before this.
    pub retry_at: Instant,
    /// How many lookups in a row have failed in this way, this one included.
    pub streak: u32,
}

impl<T, E> Entry<T, E> {
    /// The entry of a lookup that succeeded at `now`. Earlier failures are forgotten.
    pub fn succeeded(value: T, now: Instant, time: SystemTime) -> Self {
        Self {
            good: Some(Good { value, at: now, time }),
            failed: None,
            asked: Asked::default(),
        }
    }

    /// The entry of a lookup that failed. The last good answer stays.
    pub fn failed(good: Option<Good<T>>, failed: Failed<E>) -> Self {
        Self {
            good,
            failed: Some(failed),
            asked: Asked::default(),
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

impl<T> Good<T> {
    /// How old the answer is.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}
