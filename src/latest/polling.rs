//! Polls of the channels that are watched: one task for all of them, which does what the [`Planner`] says.
//!
//! A poll is a lookup like any other, and joins one that is under way. Polls are handed out at the rate that the source has room for;
//! one for which nothing was looked up, since somebody else had just done so, gives its turn back.

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
    Known, Latest, OVERLOAD_PAUSE, Query, Settings,
    hub::{Hub, Hubs},
};
use crate::{
    clock,
    dispatch::polls::{Limits, Next, Planner, PollFailure},
    upstream::{Caller, Purpose, UpstreamError},
    video::ChannelId,
};

/// How often the source is asked for how many polls it has room.
const ROOM_FOR: Duration = Duration::from_secs(1);

/// Polls a second where the source has no limit: more than there can be.
const UNLIMITED: f64 = 1e6;

/// Polls that may be under way. Each takes a place in the source's line, where more of them would only wait.
const UNDER_WAY: usize = 256;

/// The bounds of the time between two polls, in seconds: what `--watch-every` may be, its default with a tenth more or less, and up
/// to what exceeds the default of `--watch-at-most`.
const INTERVALS: [f64; 13] = [
    1.0, 5.0, 15.0, 30.0, 60.0, 70.0, 90.0, 180.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
];

/// When each watched channel is polled, and which polls are under way.
pub(super) struct Polling {
    every: Duration,
    fresh_for: Duration,
    /// Held for one decision, never across an `await`.
    planner: Mutex<Planner<ChannelId>>,
    /// What has come so far of the polls that are under way. Likewise; may be taken while `planner` is held, and not the other way
    /// round.
    under_way: Mutex<HashMap<ChannelId, Came>>,
    /// Wakes the task: a channel was added, or a poll has ended.
    changed: Notify,
    polls: AtomicU64,
    intervals: Histogram,
}

/// What came of a poll.
#[derive(Clone, Copy, Debug)]
enum Came {
    /// Nothing was looked up so far.
    Nothing,
    /// The source has answered, or was asked for as long as it may take.
    Answered,
    /// The source has no turn for it until then.
    NoTurn(Duration),
}

/// The task that polls. Its drop ends it.
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
            under_way: Mutex::default(),
            changed: Notify::new(),
            polls: AtomicU64::new(0),
            intervals: Histogram::new(INTERVALS),
        }
    }

    /// Takes in that a caller watches channels.
    pub(super) fn add(&self, channels: &[ChannelId], caller: u64) {
        let mut planner = self.planner.lock();
        for channel in channels {
            planner.insert(*channel, caller);
        }
    }

    /// Takes in that a caller watches a channel no longer, or once less.
    pub(super) fn remove(&self, channel: ChannelId, caller: u64) {
        self.planner.lock().remove(channel, caller);
    }

    /// Takes in what is known of a watched channel, whoever has looked it up. What happens to lookups here says nothing of it.
    pub(super) fn looked_up(&self, channel: ChannelId, known: &Known) {
        let failed = known.failed.as_ref();
        if failed.is_some_and(|failed| failed.error.is_local_condition()) {
            return;
        }
        let (since_boot, tokio) = (clock::now(), now());
        // The plan has a clock of its own.
        let at = |at: Instant| {
            let ago = since_boot.saturating_duration_since(at);
            tokio.checked_sub(ago).unwrap_or(tokio)
        };
        let mut planner = self.planner.lock();
        if let Some(good) = &known.good {
            let published = good.value.uploads().filter_map(|upload| upload.published());
            let ages = published.map(|published| good.time.duration_since(published).unwrap_or_default());
            planner.observed(channel, ages, at(good.at));
        }
        if let Some(failed) = failed {
            let is_unknown = known.good.is_none() && failed.error == UpstreamError::NotFound;
            let why = if is_unknown {
                PollFailure::NotFound
            } else {
                PollFailure::Other
            };
            let pause = failed.retry_at.saturating_duration_since(failed.at);
            planner.failed(channel, why, Some(pause), at(failed.at));
        }
    }

    /// Takes in that the source was asked for `channel` in a poll, and what is known of it since.
    pub(super) fn asked(&self, channel: ChannelId, known: &Known) {
        let failed = known.failed.as_ref();
        let came = match failed.filter(|failed| failed.error.is_local_condition()) {
            Some(failed) => Came::NoTurn(failed.retry_at.saturating_duration_since(failed.at)),
            None => Came::Answered,
        };
        if let Some(poll) = self.under_way.lock().get_mut(&channel) {
            *poll = came;
        }
    }

    /// The number of polls so far.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Makes what is measured known to whoever reads `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "poll_interval",
            "The time between two polls of a watched channel",
            Unit::Seconds,
            self.intervals.clone(),
        );
    }

    /// The channel to poll now. If there is none, when to look again; `None`: when something has changed.
    fn next(&self) -> Result<ChannelId, Option<Instant>> {
        let mut planner = self.planner.lock();
        loop {
            let mut under_way = self.under_way.lock();
            if under_way.len() >= UNDER_WAY {
                return Err(None);
            }
            match planner.next(now()) {
                // The last one still goes on.
                Next::Poll(channel) if under_way.contains_key(&channel) => planner.return_poll(),
                Next::Poll(channel) => {
                    under_way.insert(channel, Came::Nothing);
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
    /// Sees to it that the channels that are watched are polled.
    pub(super) fn poll_watched(self: &Arc<Self>) {
        self.poller.0.get_or_init(|| {
            // Owns nothing that keeps the service alive. Ended by the service's drop.
            let task = run(Arc::downgrade(self), Arc::clone(&self.source.hubs));
            self.runtime.spawn(task).abort_handle()
        });
        self.source.hubs.polling.changed.notify_one();
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
            let room = latest.source.room_for_polls().unwrap_or(UNLIMITED);
            polling.planner.lock().set_budget(room, now());
            room_until = now() + ROOM_FOR;
        }
        match polling.next() {
            Ok(channel) => {
                let poll = Poll {
                    channel,
                    hubs: Arc::clone(&hubs),
                };
                // Ended by the limit of a flight, or with its runtime.
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

/// A poll that is under way until it is dropped.
struct Poll {
    channel: ChannelId,
    hubs: Arc<Hubs>,
}

impl Poll {
    /// Looks the channel up, unless somebody else has just done so.
    async fn run(self, latest: Weak<Latest>) {
        let polling = &self.hubs.polling;
        let Some(latest) = latest.upgrade() else {
            return;
        };
        let begun = (now(), clock::now());
        // What a watch begins with may be as old as any fresh answer.
        let is_shown = |hub: Arc<Hub>| hub.read(|timeline| timeline.channel().is_some());
        let is_shown = self.hubs.get(self.channel).is_some_and(is_shown);
        let max_age = if is_shown {
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
        let came = polling.under_way.lock().get(&self.channel).copied();
        match came {
            Some(Came::Answered) => {
                let hub = self.hubs.get(self.channel);
                if let Some(interval) = hub.and_then(|hub| hub.polled(begun.0)) {
                    polling.intervals.observe(interval.as_secs_f64());
                }
            }
            Some(Came::NoTurn(retry_after)) => {
                polling.planner.lock().refused(self.channel, retry_after, now());
            }
            Some(Came::Nothing) | None => {
                polling.planner.lock().return_poll();
                let known = latest.coalescer.get(&feed).await;
                if let Some(known) = known.filter(|known| will_do(known, begun.1, max_age)) {
                    // As old as it is, it may be new to the plan and to those who watch.
                    latest.source.publish(feed, &known);
                } else {
                    // It had joined a lookup that got no turn.
                    let retry_after = reply.retry_after.unwrap_or(OVERLOAD_PAUSE);
                    polling.planner.lock().refused(self.channel, retry_after, now());
                }
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.hubs.polling.under_way.lock().remove(&self.channel);
        self.hubs.polling.changed.notify_one();
    }
}

/// Whether what is known makes a poll needless that began at `begun`.
fn will_do(known: &Known, begun: Instant, max_age: Duration) -> bool {
    let is_new = known
        .last_attempt()
        .is_some_and(|at| begun.saturating_duration_since(at) <= max_age);
    let failed = known.failed.as_ref();
    is_new || failed.is_some_and(|failed| begun < failed.retry_at)
}

/// Tokio's time, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
