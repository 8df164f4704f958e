//! The state of polling: the plan of the [`Planner`], and the polls in progress. The task in `poller.rs` follows it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Registry, Unit},
};
use tokio::sync::Notify;

use super::{FeedEntry, Settings};
use crate::{
    clock,
    dispatch::polls::{Limits, Next, Planner, PollFailure},
    upstream::UpstreamError,
    video::ChannelId,
};

/// Polls per second where the source has no limit: more than are ever needed.
pub(super) const UNLIMITED: f64 = 1e6;

/// The most concurrent polls. Each takes a place in the source's queue, where more of them would only wait.
const MAX_CONCURRENT: usize = 256;

/// Histogram buckets for the time between two polls, in seconds: values of `--watch-every`, its default with a tenth of jitter, and up to
/// more than the default of `--watch-at-most`.
const INTERVALS: [f64; 13] = [
    1.0, 5.0, 15.0, 30.0, 60.0, 70.0, 90.0, 180.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
];

/// The plan of polls, and those in progress.
pub(super) struct Polling {
    pub(super) every: Duration,
    pub(super) fresh_for: Duration,
    /// Held for one decision, never across an `await`.
    pub(super) planner: Mutex<Planner<ChannelId>>,
    /// The polls in progress. Never held across an `await`; may be taken while `planner` is held, but not the other way round.
    pub(super) in_progress: Mutex<HashMap<ChannelId, PollOutcome>>,
    /// Wakes the task after a channel was added or a poll has ended.
    pub(super) changed: Notify,
    polls: AtomicU64,
    pub(super) intervals: Histogram,
}

/// The outcome of a poll so far.
#[derive(Clone, Copy, Debug)]
pub(super) enum PollOutcome {
    /// No lookup was made.
    NoLookup,
    /// The source has answered, or did not answer in time.
    Answered,
    /// The source did not admit the lookup and asks to wait for this time.
    NotAdmitted(Duration),
}

impl Polling {
    pub(super) fn new(settings: &Settings) -> Self {
        let limits = Limits {
            every: settings.watch_every,
            at_most: settings.watch_at_most,
            budget: UNLIMITED,
        };
        Self {
            every: settings.watch_every,
            fresh_for: settings.policy.fresh_for,
            planner: Mutex::new(Planner::new(limits, now())),
            in_progress: Mutex::default(),
            changed: Notify::new(),
            polls: AtomicU64::new(0),
            intervals: Histogram::new(INTERVALS),
        }
    }

    /// Adds channels that a caller watches to the plan.
    pub(super) fn add(&self, channels: &[ChannelId], caller: u64) {
        let mut planner = self.planner.lock();
        for channel in channels {
            planner.insert(*channel, caller);
        }
    }

    /// Removes one watch of a caller from the plan.
    pub(super) fn remove(&self, channel: ChannelId, caller: u64) {
        self.planner.lock().remove(channel, caller);
    }

    /// Updates the plan after a lookup of a watched channel, for whichever caller. Local conditions say nothing about the channel and are
    /// ignored.
    pub(super) fn looked_up(&self, channel: ChannelId, entry: &FeedEntry) {
        let failure = entry.failure.as_ref();
        if failure.is_some_and(|failure| failure.error.is_local_condition()) {
            return;
        }
        let (since_boot, tokio) = (clock::now(), now());
        // The plan uses tokio's clock.
        let at = |at: Instant| {
            let ago = since_boot.saturating_duration_since(at);
            tokio.checked_sub(ago).unwrap_or(tokio)
        };
        let mut planner = self.planner.lock();
        if let Some(success) = &entry.success {
            let published = success.value.uploads().filter_map(|upload| upload.published());
            let ages = published.map(|published| success.time.duration_since(published).unwrap_or_default());
            planner.observed(channel, ages, at(success.at));
        }
        if let Some(failure) = failure {
            let is_unknown = entry.success.is_none()
                && matches!(
                    failure.error,
                    UpstreamError::NotFound | UpstreamError::NoSuchChannel
                );
            let reason = if is_unknown {
                PollFailure::NotFound
            } else {
                PollFailure::Other
            };
            let pause = failure.retry_at.saturating_duration_since(failure.at);
            // Another source may be asked earlier than the feed.
            let pause = (!failure.out_of_budget).then_some(pause);
            planner.failed(channel, reason, pause, at(failure.at));
        }
    }

    /// Records the outcome of a lookup that a poll has started.
    pub(super) fn report(&self, channel: ChannelId, entry: &FeedEntry) {
        let failure = entry.failure.as_ref();
        let outcome = match failure.filter(|failure| failure.error.is_local_condition()) {
            Some(failure) => PollOutcome::NotAdmitted(failure.retry_at.saturating_duration_since(failure.at)),
            None => PollOutcome::Answered,
        };
        if let Some(poll) = self.in_progress.lock().get_mut(&channel) {
            *poll = outcome;
        }
    }

    /// The number of polls so far.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Registers the metrics.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "poll_interval",
            "The time between two polls of a watched channel",
            Unit::Seconds,
            self.intervals.clone(),
        );
    }

    /// The channel to poll now, or else when to check again; `None` means after the next change.
    pub(super) fn next(&self) -> Result<ChannelId, Option<Instant>> {
        let mut planner = self.planner.lock();
        loop {
            let mut in_progress = self.in_progress.lock();
            if in_progress.len() >= MAX_CONCURRENT {
                return Err(None);
            }
            match planner.next(now()) {
                // Its last poll is still in progress.
                Next::Poll(channel) if in_progress.contains_key(&channel) => planner.return_poll(),
                Next::Poll(channel) => {
                    in_progress.insert(channel, PollOutcome::NoLookup);
                    self.polls.fetch_add(1, Relaxed);
                    return Ok(channel);
                }
                Next::WaitUntil(at) => return Err(Some(at)),
                Next::Idle => return Err(None),
            }
        }
    }
}

/// The time of tokio's clock, which tests can pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
