//! Messages of other replicas: wakes lookups that wait for a lease, and passes on which feeds were saved.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    broadcast::{self, Receiver},
    futures::OwnedNotified,
};

use crate::{store::RemoteUpdate, upstream::Feed};

/// Most feeds that can be waited for at once. Further waiters get no message, and ask again when the lease should have expired.
const MAX_AWAITED_FEEDS: usize = 1 << 16;

/// Messages that a reader may lag behind: almost two seconds at 5,000 a second. Older ones are dropped, and the reader gets their number.
const MAX_UPDATES: usize = 1 << 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The feed's entry was saved.
    Saved,
    /// The lease was released without one.
    Released,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Released => "released",
        }
    }
}

/// Distributes messages within this process. Called by the task that reads the connection, so it never waits.
pub(super) struct Subscription {
    pub(super) instance: String,
    /// Locked for a look-up or a change, never across an await.
    waiting: Mutex<HashMap<Feed, Arc<Waiting>>>,
    updates: broadcast::Sender<RemoteUpdate>,
}

#[derive(Default)]
struct Waiting {
    message: Arc<Notify>,
    /// The number of waiters. Changed only under the lock of the map.
    waiters: Mutex<usize>,
}

impl Subscription {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            // As unlikely to collide as a UUID, which has 122 random bits.
            instance: format!("{:032x}", fastrand::u128(..)),
            waiting: Mutex::default(),
            updates: broadcast::channel(MAX_UPDATES).0,
        })
    }

    pub(super) fn message(&self, event: Event, feed: Feed) -> String {
        format!("{} {} {}", event.name(), self.instance, feed.tag())
    }

    /// Handles a message. Ignores malformed ones.
    pub(super) fn receive(&self, message: &[u8]) {
        let Some(mut fields) = str::from_utf8(message).ok().map(|text| text.split(' ')) else {
            return;
        };
        let (Some(event), Some(instance), Some(feed)) = (
            fields.next(),
            fields.next(),
            fields.next().and_then(Feed::from_tag),
        ) else {
            return;
        };
        if event == Event::Saved.name() && instance != self.instance {
            // Fails if there is no receiver.
            let _ = self.updates.send(RemoteUpdate::Saved(feed));
        }
        if let Some(waiting_for) = self.waiting.lock().remove(&feed) {
            waiting_for.message.notify_waiters();
        }
    }

    /// Notes a new session: messages since the end of the last one are lost.
    pub(super) fn connected(&self) {
        let _ = self.updates.send(RemoteUpdate::Lost(None));
    }

    /// The feeds that other replicas save from now on.
    pub(super) fn updates(&self) -> Receiver<RemoteUpdate> {
        self.updates.subscribe()
    }

    /// Starts to wait for the next message about `feed`.
    pub(super) fn wait(self: &Arc<Self>, feed: Feed) -> Waiter {
        let mut waiting = self.waiting.lock();
        let full = waiting.len() >= MAX_AWAITED_FEEDS;
        let waiting_for = match waiting.entry(feed) {
            hash_map::Entry::Occupied(entry) => Arc::clone(entry.get()),
            hash_map::Entry::Vacant(_) if full => Arc::default(),
            hash_map::Entry::Vacant(entry) => Arc::clone(entry.insert(Arc::default())),
        };
        *waiting_for.waiters.lock() += 1;
        Waiter {
            message: Box::pin(Arc::clone(&waiting_for.message).notified_owned()),
            feed,
            waiting_for,
            subscription: Arc::clone(self),
        }
    }

    #[cfg(test)]
    fn awaited_feeds(&self) -> usize {
        self.waiting.lock().len()
    }
}

pub(super) struct Waiter {
    pub(super) message: std::pin::Pin<Box<OwnedNotified>>,
    feed: Feed,
    waiting_for: Arc<Waiting>,
    subscription: Arc<Subscription>,
}

impl Drop for Waiter {
    /// The last waiter removes the feed from the map.
    fn drop(&mut self) {
        let mut waiting = self.subscription.waiting.lock();
        let mut waiters = self.waiting_for.waiters.lock();
        *waiters -= 1;
        if *waiters == 0
            && let hash_map::Entry::Occupied(entry) = waiting.entry(self.feed)
            && Arc::ptr_eq(entry.get(), &self.waiting_for)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests;
