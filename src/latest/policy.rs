//! When what is known will do, and when to ask again. Pure: time and chance are arguments.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Known, Why, seconds};
use crate::{
    cache_entry::{Failure, Success},
    upstream::UpstreamError,
    video::Channel,
};

/// The first pause after a failure: long enough that callers who retry at once cost nothing, short enough that a hiccup of the
/// upstream is over with the next lookup.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause: 404 spells last for hours, but the end of one should be noticed within minutes.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Pauses vary by a fifth either way, so that channels which failed together do not all ask again together.
const JITTER: f64 = 0.2;

/// The longest that an unknown channel is remembered as unknown: it may be made, and the 404 may have been a spell's.
const LONGEST_NEGATIVE: Duration = Duration::from_mins(15);

/// How long an answer of unknown age can be a fallback: spells of failures last for hours.
const UNKNOWN_FOR: Duration = Duration::from_hours(24);

/// The rules of freshness.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A good answer of at most this age is given without a lookup.
    pub fresh_for: Duration,
    /// For this much longer it is given at once, while one lookup behind it brings a newer one.
    pub stale_while_revalidate: Duration,
    /// A good answer of at most this age is given if a lookup fails. So is one that would be given without a lookup.
    pub stale_if_error: Duration,
    /// How long a channel that was never seen is remembered as not found; doubling with each repeat, to 15 minutes.
    pub negative_for: Duration,
    /// The least age that a caller can ask for: nobody makes a channel be looked up more often by asking again and again.
    pub min_refetch: Duration,
}

/// What to do about what is known.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// Give this answer.
    Answer {
        good: &'a Success<Arc<Channel>>,
        /// And look up behind it.
        refresh: bool,
    },
    /// Give this answer, for want of a better: the last lookup failed.
    Fallback(&'a Success<Arc<Channel>>, &'a Failure<UpstreamError>),
    /// Give this failure.
    Refuse(&'a Failure<UpstreamError>),
    /// Look up, and wait for it.
    LookUp(Why),
}

/// `duration`, a part of it longer or shorter. `chance` is from 0 to 1.
#[must_use]
pub fn jittered(duration: Duration, part: f64, chance: f64) -> Duration {
    duration.mul_f64(1.0 + part * (2.0 * chance - 1.0))
}

impl Policy {
    /// The `max_age` that counts for a caller who asks for one. Polls have an interval of their own.
    pub(super) fn granted(&self, max_age: Option<Duration>) -> Option<Duration> {
        max_age.map(|max_age| max_age.max(self.min_refetch))
    }

    /// For how long anything that is known can matter.
    #[must_use]
    pub fn keep_for(&self) -> Duration {
        self.usable_for().max(self.negative_for).max(LONGEST_NEGATIVE)
    }

    /// How old a good answer may be that is given at once, while it is looked up.
    fn given_for(&self) -> Duration {
        self.fresh_for.saturating_add(self.stale_while_revalidate)
    }

    /// How old a good answer may be that is given for want of a better.
    pub(super) fn usable_for(&self) -> Duration {
        self.stale_if_error.max(self.given_for())
    }

    /// The age to assume for an answer of unknown age: too old to be given before a lookup, and usable as a fallback for one more day.
    ///
    /// With a `stale_if_error` of less than that it is usable for what is left of it: not at all, if an answer that old is given without
    /// a lookup anyway.
    #[must_use]
    pub fn unknown_age(&self) -> Duration {
        let too_old = self.given_for().saturating_add(Duration::from_secs(1));
        self.usable_for().saturating_sub(UNKNOWN_FOR).max(too_old)
    }

    /// Judges what is `known` at `now` for a caller who came at `asked` and accepts an answer of `max_age`.
    ///
    /// What was looked up after the caller came is as new as it gets, and is given whatever its age.
    pub(super) fn judge<'a>(
        &self,
        known: Option<&'a Known>,
        max_age: Option<Duration>,
        asked: Instant,
        now: Instant,
    ) -> Verdict<'a> {
        let Some(known) = known else {
            return Verdict::LookUp(Why::Unknown);
        };
        // A failure that is remembered, or that this very caller has waited for: no other lookup now.
        let failed = known
            .failed
            .as_ref()
            .filter(|f| f.at >= asked || now < f.retry_at);
        let Some(good) = &known.good else {
            return failed.map_or(Verdict::LookUp(Why::Stale), Verdict::Refuse);
        };
        let age = good.age(now);
        if good.at >= asked || age <= max_age.unwrap_or(self.fresh_for) {
            return Verdict::Answer { good, refresh: false };
        }
        if let Some(failed) = failed {
            return if age <= self.usable_for() {
                Verdict::Fallback(good, failed)
            } else {
                Verdict::Refuse(failed)
            };
        }
        if max_age.is_none() && age <= self.given_for() {
            return Verdict::Answer { good, refresh: true };
        }
        Verdict::LookUp(if age <= self.fresh_for {
            Why::Requested
        } else {
            Why::Stale
        })
    }

    /// How long not to look up again after a lookup has failed for the `streak`-th time in a row, unless the upstream has said
    /// when. `chance` is from 0 to 1.
    pub(super) fn pause(&self, error: &UpstreamError, ever_seen: bool, streak: u32, chance: f64) -> Duration {
        let double = |first: Duration, longest: Duration| {
            // 2^16 × 5 s is far beyond any longest.
            let doublings = streak.saturating_sub(1).min(16);
            first.saturating_mul(1 << doublings).min(longest.max(first))
        };
        if *error == UpstreamError::NotFound && !ever_seen {
            double(self.negative_for, LONGEST_NEGATIVE)
        } else {
            jittered(double(FIRST_PAUSE, LONGEST_PAUSE), JITTER, chance)
        }
    }

    /// How many lookups in a row have failed with `error` or its like, if the one before failed as `before`.
    ///
    /// "Not found" has pauses of its own, and so a streak of its own: six time-outs make no 404 a seventh one. A 404 in an outage
    /// is one of them: whether it counts as an outage may change with each, as other channels come and go. A suspect snapshot came from
    /// an upstream that works.
    pub(super) fn streak(before: Option<&Failure<UpstreamError>>, error: &UpstreamError) -> u32 {
        use UpstreamError::{NotFound, Outage, SuspectSnapshot};
        let goes_on = |before: &UpstreamError| match (before, error) {
            (NotFound | Outage, NotFound | Outage) => true,
            (NotFound | SuspectSnapshot, _) | (_, NotFound | SuspectSnapshot) => false,
            _ => true,
        };
        before
            .filter(|failed| goes_on(&failed.error))
            .map_or(1, |failed| failed.streak.saturating_add(1))
    }

    /// The seconds until `good` is no longer fresh; below zero: since.
    pub(super) fn ttl(&self, good: &Success<Arc<Channel>>, now: Instant) -> i64 {
        let age = good.age(now);
        if let Some(left) = self.fresh_for.checked_sub(age) {
            return seconds(left);
        }
        // Rounded away from zero: what is stale, if only just, does not say that it is fresh for 0 seconds more.
        let over = age.saturating_sub(self.fresh_for);
        -seconds(over) - i64::from(over.subsec_nanos() > 0)
    }
}
