//! The cache entry of a feed: the last successful lookup, and the failure since.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// The last success and the failure since. At least one of them is present.
///
/// Ages are computed from [`Instant`]s, which changes of the wall clock do not affect.
#[derive(Debug)]
pub struct CacheEntry<T, E> {
    /// The last lookup that succeeded.
    pub success: Option<Success<T>>,
    /// The lookup that failed since, if one did.
    pub failure: Option<Failure<E>>,
    /// The number of requests since the feed is cached, later lookups or not.
    pub hits: HitCount,
}

/// Counts the requests that an entry has served. Shares a cache line with the reference count of the entry, which every request writes
/// anyway.
///
/// From time to time all counts are [marked](Self::mark), so that rates of the time since then can be told.
#[derive(Debug, Default)]
pub struct HitCount {
    count: AtomicU64,
    /// The lower half of the count at the last mark but one, and at the last.
    marks: [AtomicU32; 2],
}

impl HitCount {
    /// Adds one.
    pub fn increment(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    /// The count.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Marks the present count. Only one thread may do so at a time.
    pub fn mark(&self) {
        let [older, newer] = &self.marks;
        older.store(newer.load(Relaxed), Relaxed);
        newer.store(self.lower_half(), Relaxed);
    }

    /// What was counted since the last mark but one.
    pub fn since_mark(&self) -> u32 {
        self.lower_half().wrapping_sub(self.marks[0].load(Relaxed))
    }

    /// Continues the count of the entry that this one replaces, which nobody has asked yet.
    pub fn continue_from(&self, replaced: &Self) {
        self.count.store(replaced.count(), Relaxed);
        for (mark, replaced) in self.marks.iter().zip(&replaced.marks) {
            mark.store(replaced.load(Relaxed), Relaxed);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    fn lower_half(&self) -> u32 {
        self.count() as u32
    }
}

/// A successful lookup.
#[derive(Clone, Debug)]
pub struct Success<T> {
    /// The answer.
    pub value: T,
    /// When the lookup ended, for ages.
    pub at: Instant,
    /// When the lookup ended by the wall clock. For display only, never for computations.
    pub time: SystemTime,
    /// When another source first reported what is newest in the answer. `None` if the first source has listed it, or if that is not known.
    pub unlisted_since: Option<Instant>,
}

/// A failed lookup.
#[derive(Clone, Debug)]
pub struct Failure<E> {
    /// The reason.
    pub error: E,
    /// When the lookup ended.
    pub at: Instant,
    /// When the next lookup is allowed.
    pub retry_at: Instant,
    /// The number of similar failures in a row, including this one.
    pub streak: u32,
    /// Another source had no budget left for this caller, or refused all requests. It may be asked before `retry_at` if it has some then.
    pub out_of_budget: bool,
}

impl<T, E> CacheEntry<T, E> {
    /// The entry after a lookup that succeeded at `now`. Drops earlier failures.
    pub fn succeeded(value: T, now: Instant, time: SystemTime) -> Self {
        Self {
            success: Some(Success {
                value,
                at: now,
                time,
                unlisted_since: None,
            }),
            failure: None,
            hits: HitCount::default(),
        }
    }

    /// Sets [`Success::unlisted_since`].
    #[must_use]
    pub fn with_unlisted_since(mut self, since: Option<Instant>) -> Self {
        if let Some(success) = &mut self.success {
            success.unlisted_since = since;
        }
        self
    }

    /// The entry after a lookup that failed. The last success stays.
    pub fn failed(success: Option<Success<T>>, failure: Failure<E>) -> Self {
        Self {
            success,
            failure: Some(failure),
            hits: HitCount::default(),
        }
    }

    /// When the last lookup ended, whether it succeeded or failed.
    #[must_use]
    pub fn last_attempt(&self) -> Option<Instant> {
        let success = self.success.as_ref().map(|success| success.at);
        let failure = self.failure.as_ref().map(|failure| failure.at);
        success.max(failure)
    }
}

impl<T: Clone, E: Clone> CacheEntry<T, E> {
    /// The `current` entry, if there is one, with what is newer in `other`. `None` if that is nothing.
    pub fn merge_into(current: Option<&Self>, other: &Arc<Self>) -> Option<Arc<Self>> {
        match current {
            Some(current) => current.merged_with(other).map(Arc::new),
            None => Some(Arc::clone(other)),
        }
    }

    /// The entry with a newer success or a newer failure of `other`. `None` if `other` has neither.
    ///
    /// Either entry may lack what the other has: a replica whose lookup failed may have had no success, since the store was empty or down.
    pub fn merged_with(&self, other: &Self) -> Option<Self> {
        let succeeded_at = |entry: &Self| entry.success.as_ref().map(|success| success.at);
        let has_newer_success = succeeded_at(other) > succeeded_at(self);
        let has_newer_failure = other.failure.as_ref().map(|failure| failure.at) > self.last_attempt();
        if !has_newer_success && !has_newer_failure {
            return None;
        }
        let success = if has_newer_success {
            &other.success
        } else {
            &self.success
        };
        let failure = if has_newer_failure {
            &other.failure
        } else {
            &self.failure
        };
        // A success supersedes earlier failures.
        let since = success.as_ref().map(|success| success.at);
        let hits = HitCount::default();
        hits.continue_from(&self.hits);
        Some(Self {
            success: success.clone(),
            failure: failure.clone().filter(|failure| Some(failure.at) >= since),
            hits,
        })
    }
}

impl<T> Success<T> {
    /// The age of the answer.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::HitCount;

    #[test]
    fn counts_go_on_in_the_entry_that_replaces_another() {
        let hits = HitCount::default();
        let ask = |hits: &HitCount, times| (0..times).for_each(|_| hits.increment());
        ask(&hits, 7);
        assert_eq!((hits.count(), hits.since_mark()), (7, 7));
        hits.mark();
        ask(&hits, 5);
        assert_eq!((hits.count(), hits.since_mark()), (12, 12));
        hits.mark();
        assert_eq!((hits.count(), hits.since_mark()), (12, 5));
        ask(&hits, 1);
        let next = HitCount::default();
        next.continue_from(&hits);
        ask(&next, 2);
        assert_eq!((next.count(), next.since_mark()), (15, 8));
        next.mark();
        assert_eq!((next.count(), next.since_mark()), (15, 3));
    }
}
