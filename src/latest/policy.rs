//! Freshness policy: serve, revalidate or fetch, and how long to back off after a failure. Pure: `now` and randomness are parameters.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{FeedEntry, MissReason, seconds};
use crate::{
    cache_entry::{Failure, Success},
    upstream::UpstreamError,
    video::Channel,
};

/// The first pause after a failure: long enough that immediate retries cost nothing, short enough that a hiccup of the upstream is
/// over by the next lookup.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause: spells of 404s last for hours, but the end of one should be noticed within minutes.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Pauses vary by a fifth either way, so that channels that failed together are not all retried together.
const JITTER: f64 = 0.2;

/// The longest time for which a channel is cached as not found: it may be created, and the 404 may have been part of a spell.
const LONGEST_NEGATIVE: Duration = Duration::from_mins(15);

/// How long an answer of unknown age can serve as a fallback: spells of failures last for hours.
const UNKNOWN_FOR: Duration = Duration::from_hours(24);

/// The freshness settings, similar to those of HTTP caching (RFC 9111, RFC 5861).
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// An answer of at most this age is served without a lookup.
    pub fresh_for: Duration,
    /// For this much longer it is served at once, while a background lookup fetches a newer one.
    pub stale_while_revalidate: Duration,
    /// An answer of at most this age is served if a lookup fails. So is one that would be served without a lookup.
    pub stale_if_error: Duration,
    /// How long a channel that was never found is cached as not found; doubles with each repeat, up to 15 minutes.
    pub negative_for: Duration,
    /// The smallest `max_age` that a caller can ask for, which bounds how often callers can have a channel looked up.
    pub min_refetch: Duration,
}

/// What to reply from a cache entry.
#[derive(Debug)]
pub(super) enum FromCache<'a> {
    /// An answer.
    Answer {
        success: &'a Success<Arc<Channel>>,
        /// It is stale: start a lookup in the background.
        revalidate: bool,
    },
    /// A stale answer, since the last lookup failed.
    Fallback(&'a Success<Arc<Channel>>, &'a Failure<UpstreamError>),
    /// A failure.
    Failure(&'a Failure<UpstreamError>),
}

/// Lengthens or shortens `duration` by up to `part` of it. `chance` is from 0 to 1.
#[must_use]
pub fn jittered(duration: Duration, part: f64, chance: f64) -> Duration {
    duration.mul_f64(1.0 + part * (2.0 * chance - 1.0))
}

impl Policy {
    /// The `max_age` that applies if a caller asks for one. Does not apply to polls.
    pub(super) fn granted(&self, max_age: Option<Duration>) -> Option<Duration> {
        max_age.map(|max_age| max_age.max(self.min_refetch))
    }

    /// How long a cache entry can be of use.
    #[must_use]
    pub fn keep_for(&self) -> Duration {
        self.usable_for().max(self.negative_for).max(LONGEST_NEGATIVE)
    }

    /// The greatest age at which an answer is served while it is revalidated.
    fn served_for(&self) -> Duration {
        self.fresh_for.saturating_add(self.stale_while_revalidate)
    }

    /// The greatest age at which an answer is served if the lookup fails.
    pub(super) fn usable_for(&self) -> Duration {
        self.stale_if_error.max(self.served_for())
    }

    /// The age to assume for an answer of unknown age: too old to be served before a lookup, but usable as a fallback for one more day.
    ///
    /// With a shorter `stale_if_error` it is usable for the rest of that: not at all, if an answer that old is served without a lookup
    /// anyway.
    #[must_use]
    pub fn unknown_age(&self) -> Duration {
        let too_old = self.served_for().saturating_add(Duration::from_secs(1));
        self.usable_for().saturating_sub(UNKNOWN_FOR).max(too_old)
    }

    /// Decides what to reply to a caller that arrived at `arrived_at` and accepts an answer of `max_age`.
    ///
    /// What was looked up after the caller arrived is as new as it gets, and is served whatever its age. A failure is not replied, and a
    /// caller waits for a lookup, if that `can_ask_others`: sources that were not asked when it failed.
    ///
    /// # Errors
    ///
    /// The reason why a lookup is needed first.
    pub(super) fn decide<'a>(
        &self,
        entry: Option<&'a FeedEntry>,
        max_age: Option<Duration>,
        arrived_at: Instant,
        now: Instant,
        can_ask_others: bool,
    ) -> Result<FromCache<'a>, MissReason> {
        let Some(entry) = entry else {
            return Err(MissReason::NotCached);
        };
        // No other lookup now: the last one failed a short time ago, or this very caller waited for it.
        let failure = entry
            .failure
            .as_ref()
            .filter(|failure| failure.at >= arrived_at || now < failure.retry_at);
        let Some(success) = &entry.success else {
            let failure = failure.filter(|_| !can_ask_others);
            return failure.map(FromCache::Failure).ok_or(MissReason::Stale);
        };
        let age = success.age(now);
        let answer = |revalidate| FromCache::Answer { success, revalidate };
        if success.at >= arrived_at || age <= max_age.unwrap_or(self.fresh_for) {
            return Ok(answer(false));
        }
        let is_served = max_age.is_none() && age <= self.served_for();
        if let Some(failure) = failure
            && (is_served || !can_ask_others)
        {
            return Ok(if age <= self.usable_for() {
                FromCache::Fallback(success, failure)
            } else {
                FromCache::Failure(failure)
            });
        }
        if failure.is_none() && is_served {
            return Ok(answer(true));
        }
        Err(if age <= self.fresh_for {
            MissReason::Requested
        } else {
            MissReason::Stale
        })
    }

    /// How long to pause after the `streak`-th failure in a row, unless the upstream asked for a longer time. `chance` is from 0 to 1.
    pub(super) fn pause(&self, error: &UpstreamError, was_found: bool, streak: u32, chance: f64) -> Duration {
        let double = |first: Duration, longest: Duration| {
            // 2^16 × 5 s is far more than any longest pause.
            let doublings = streak.saturating_sub(1).min(16);
            first.saturating_mul(1 << doublings).min(longest.max(first))
        };
        let longest = match error {
            UpstreamError::NotFound | UpstreamError::NoSuchChannel if !was_found => {
                return double(self.negative_for, LONGEST_NEGATIVE);
            }
            // The source works: what it lists next should not be found later than otherwise.
            UpstreamError::SuspectSnapshot => LONGEST_PAUSE.min(self.fresh_for),
            _ => LONGEST_PAUSE,
        };
        jittered(double(FIRST_PAUSE, longest), JITTER, chance)
    }

    /// The number of similar failures in a row: `error`, and those up to `before`, the previous failure.
    ///
    /// "Not found" has pauses of its own, and so a streak of its own: a 404 after six time-outs is the first of its streak. 404s in an
    /// outage belong to the same streak, since whether a 404 counts as an outage can change from one to the next. A suspect snapshot is
    /// not counted with other failures, since the upstream works.
    pub(super) fn streak(before: Option<&Failure<UpstreamError>>, error: &UpstreamError) -> u32 {
        use UpstreamError::{NoSuchChannel, NotFound, Outage, SuspectSnapshot};
        let is_similar = |before: &UpstreamError| match (before, error) {
            (NotFound | NoSuchChannel | Outage, NotFound | NoSuchChannel | Outage)
            | (SuspectSnapshot, SuspectSnapshot) => true,
            (NotFound | NoSuchChannel | SuspectSnapshot, _)
            | (_, NotFound | NoSuchChannel | SuspectSnapshot) => false,
            _ => true,
        };
        before
            .filter(|failure| is_similar(&failure.error))
            .map_or(1, |failure| failure.streak.saturating_add(1))
    }

    /// The remaining freshness of an answer, in seconds; negative if it is stale.
    pub(super) fn ttl(&self, success: &Success<Arc<Channel>>, now: Instant) -> i64 {
        let age = success.age(now);
        if let Some(left) = self.fresh_for.checked_sub(age) {
            return seconds(left);
        }
        // Rounded away from zero, so that an answer that has just become stale does not have a TTL of 0.
        let over = age.saturating_sub(self.fresh_for);
        -seconds(over) - i64::from(over.subsec_nanos() > 0)
    }
}
