//! Polls watched channels: one task for all of them, which follows the plan in [`Polling`](super::polling::Polling).
//!
//! A poll is a lookup like any other, and joins a flight that is in progress. Polls are started at the rate that the source has room for. A
//! poll that finds a fresh entry, since another caller has just looked the channel up, gives its permit back.

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use tokio::{task::AbortHandle, time::sleep_until};

use super::{
    FeedEntry, Latest, OVERLOAD_PAUSE, Query,
    hub::{Hub, Hubs},
    polling::{PollOutcome, UNLIMITED, now},
};
use crate::{
    clock,
    dispatch::polls::PollFailure,
    upstream::{Caller, Purpose},
    video::ChannelId,
};

/// How often the room for polls is read from the source.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

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
        // Channels that were never found can be made up, so they count to a caller.
        let caller = if has_snapshot {
            None
        } else {
            polling.planner.lock().caller(self.channel)
        };
        let caller = || Caller {
            id: caller.unwrap_or_default(),
            ..Caller::default()
        };
        let reply = latest
            .answer(query, feed, Purpose::Poll, &caller, &mut None)
            .await;
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
                    let failure = entry.failure.as_ref();
                    if failure.is_some_and(|failure| failure.out_of_budget) {
                        // The next poll is due an interval after this one, not after the failure.
                        let mut planner = polling.planner.lock();
                        planner.failed(self.channel, PollFailure::Other, None, now());
                    }
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
