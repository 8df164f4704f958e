//! Polls watched channels: one task for all of them, which follows the plan of the [`Planner`].
//!
//! A poll is a lookup like any other, and joins a flight that is in progress. Polls are started at the rate that the source has room for. A
//! poll that finds a fresh entry, since another caller has just looked the channel up, gives its permit back.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Registry, Unit},
};
use tokio::{sync::Notify, task::AbortHandle, time::sleep_until};

use super::{
    FeedEntry, Latest, OVERLOAD_PAUSE, Query, Settings,
    hub::{Hub, Hubs},
};
use crate::{
    clock,
    dispatch::polls::{Limits, Next, Planner, PollFailure},
    upstream::{Caller, Purpose, UpstreamError},
    video::ChannelId,
};

/// How often the room for polls is read from the source.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// Polls per second where the source has no limit: more than are ever needed.
const UNLIMITED: f64 = 1e6;

/// The most concurrent polls. Each takes a place in the source's queue, where more of them would only wait.
const MAX_CONCURRENT: usize = 256;

/// Histogram buckets for the time between two polls, in seconds: values of `--watch-every`, its default with a tenth of jitter, and up to
/// more than the default of `--watch-at-most`.
const INTERVALS: [f64; 13] = [
    1.0, 5.0, 15.0, 30.0, 60.0, 70.0, 90.0, 180.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
];

/// The plan of polls, and those in progress.
pub(super) struct Polling {
    every: Duration,
    fresh_for: Duration,
    /// Held for one decision, never across an `await`.
    planner: Mutex<Planner<ChannelId>>,
    /// The polls in progress. Never held across an `await`; may be taken while `planner` is held, but not the other way round.
    in_progress: Mutex<HashMap<ChannelId, PollOutcome>>,
    /// Wakes the task after a channel was added or a poll has ended.
    changed: Notify,
    polls: AtomicU64,
    intervals: Histogram,
}

/// The outcome of a poll so far.
#[derive(Clone, Copy, Debug)]
enum PollOutcome {
    /// No lookup was made.
    NoLookup,
    /// The source has answered, or did not answer in time.
    Answered,
    /// The source did not admit the lookup and asks to wait for this time.
    NotAdmitted(Duration),
}

/// The polling task. Dropping it aborts the task.
#[derive(Default)]
pub(super) struct Poller(OnceLock<AbortHandle>);

impl Drop for Poller {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
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
            planner.failed(channel, reason, Some(pause), at(failure.at));
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
    fn next(&self) -> Result<ChannelId, Option<Instant>> {
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

impl Latest {
    /// Starts the polling task, or wakes it.
    pub(super) fn poll_watched(self: &Arc<Self>) {
        self.poller.0.get_or_init(|| {
            // Has no strong reference to `self`. Aborted when `self` is dropped.
            let task = run(Arc::downgrade(self), Arc::clone(self.hubs()));
            self.runtime.spawn(task).abort_handle()
        });
        self.hubs().polling.changed.notify_one();
    }
}

async fn run(latest: Weak<Latest>, hubs: Arc<Hubs>) {
    let polling = &hubs.polling;
    let mut room_until = now();
    loop {
        if now() >= room_until {
            let Some(latest) = latest.upgrade() else {
                return;
            };
            let room = latest.fetcher.room_for_polls().unwrap_or(UNLIMITED);
            polling.planner.lock().set_budget(room, now());
            room_until = now() + ROOM_INTERVAL;
        }
        match polling.next() {
            Ok(channel) => {
                let poll = Poll {
                    channel,
                    hubs: Arc::clone(&hubs),
                };
                // Ends at the latest with the time limit of a flight, or with the runtime.
                tokio::spawn(poll.run(Weak::clone(&latest)));
            }
            Err(Some(at)) => {
                tokio::select! {
                    () = sleep_until(at.min(room_until).into()) => {}
                    () = polling.changed.notified() => {}
                }
            }
            Err(None) => polling.changed.notified().await,
        }
    }
}

/// A poll in progress, until it is dropped.
struct Poll {
    channel: ChannelId,
    hubs: Arc<Hubs>,
}

impl Poll {
    /// Looks the channel up, unless its entry is fresh enough.
    async fn run(self, latest: Weak<Latest>) {
        let polling = &self.hubs.polling;
        let Some(latest) = latest.upgrade() else {
            return;
        };
        let begun = (now(), clock::now());
        // A watch may begin with any fresh answer; after that, polls keep to their interval.
        let has_snapshot = |hub: Arc<Hub>| hub.read(|timeline| timeline.channel().is_some());
        let has_snapshot = self.hubs.get(self.channel).is_some_and(has_snapshot);
        let max_age = if has_snapshot {
            polling.every / 2
        } else {
            polling.fresh_for
        };
        let query = Query {
            channel: self.channel,
            kind: None,
            max_age: Some(max_age),
        };
        let feed = self.channel.into();
        let reply = latest.answer(query, feed, Purpose::Poll, &Caller::default).await;
        let outcome = polling.in_progress.lock().get(&self.channel).copied();
        match outcome {
            Some(PollOutcome::Answered) => {
                let hub = self.hubs.get(self.channel);
                if let Some(interval) = hub.and_then(|hub| hub.polled(begun.0)) {
                    polling.intervals.observe(interval.as_secs_f64());
                }
            }
            Some(PollOutcome::NotAdmitted(retry_after)) => {
                polling.planner.lock().refused(self.channel, retry_after, now());
            }
            Some(PollOutcome::NoLookup) | None => {
                polling.planner.lock().return_poll();
                let entry = latest.coalescer.get(&feed).await;
                if let Some(entry) = entry.filter(|entry| is_sufficient(entry, begun.1, max_age)) {
                    // It may still be new to the plan and to the watches.
                    latest.fetcher.publish(feed, &entry);
                } else {
                    // The flight that it had joined was not admitted.
                    let retry_after = reply.retry_after.unwrap_or(OVERLOAD_PAUSE);
                    polling.planner.lock().refused(self.channel, retry_after, now());
                }
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.hubs.polling.in_progress.lock().remove(&self.channel);
        self.hubs.polling.changed.notify_one();
    }
}

/// Whether `entry` makes a poll unnecessary that began at `begun`.
fn is_sufficient(entry: &FeedEntry, begun: Instant, max_age: Duration) -> bool {
    let is_new = entry
        .last_attempt()
        .is_some_and(|at| begun.saturating_duration_since(at) <= max_age);
    let failure = entry.failure.as_ref();
    is_new || failure.is_some_and(|failure| begun < failure.retry_at)
}

/// The time of tokio's clock, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
