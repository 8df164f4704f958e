//! When what is known will do. Pure: the time is an argument.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Known, Why, seconds};
use crate::{
    coalesce::{Failed, Good},
    upstream::UpstreamError,
    video::Channel,
};

/// The rules of freshness.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A good answer of at most this age is given without a lookup.
    pub fresh_for: Duration,
    /// A failed lookup is not tried again for this long.
    pub negative_for: Duration,
}

/// What to do about what is known.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// Give this answer.
    Answer(&'a Good<Arc<Channel>>),
    /// Give this failure.
    Refuse(&'a Failed<UpstreamError>),
    /// Look up.
    LookUp(Why),
}

impl Verdict<'_> {
    pub(super) fn is_look_up(&self) -> bool {
        matches!(self, Self::LookUp(_))
    }
}

impl Policy {
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
        let good = known.good.as_ref();
        if let Some(good) = good
            && (good.at >= asked || good.age(now) <= max_age.unwrap_or(self.fresh_for))
        {
            return Verdict::Answer(good);
        }
        if let Some(failed) = &known.failed
            && (failed.at >= asked || now < failed.retry_at)
        {
            return Verdict::Refuse(failed);
        }
        match good {
            Some(good) if good.age(now) <= self.fresh_for => Verdict::LookUp(Why::Requested),
            _ => Verdict::LookUp(Why::Stale),
        }
    }

    /// The seconds until `good` is stale; below zero: since.
    pub(super) fn ttl(&self, good: &Good<Arc<Channel>>, now: Instant) -> i64 {
        seconds(self.fresh_for) - seconds(good.age(now))
    }
}
