//! Applies what other replicas that share the store have saved.
//!
//! A message of the store has only the name of a feed. If the feed is watched or cached here, it is loaded from the store; otherwise the
//! message costs nothing. Loads are concurrent, since one connection carries many commands at once, and [`Pending`] orders them. After
//! lost messages (too many, or a broken connection) every watched feed is loaded again.

mod pending;

use std::{
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use self::pending::{Interest, Limits, Pending};
use super::{Latest, fetcher::merge_into};
use crate::{store::RemoteUpdate, upstream::Feed};

/// At a round trip of 2.5 ms, 64 concurrent loads are 25,000 per second: several times what a busy set of replicas saves. A quarter of
/// them is reserved for watched feeds, so that these never wait for others. The queue for the others has room for as many feeds as most
/// replicas cache, at 32 bytes each; a feed that is dropped is looked up or loaded when a caller asks for it.
const LIMITS: Limits = Limits {
    loads: 64,
    other_loads: 48,
    others: 1 << 16,
};

/// Counts messages of other replicas that were lost.
#[derive(Debug, Default)]
pub(super) struct LostMessages(AtomicU64);

impl LostMessages {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn add(&self, lost: u64) {
        self.0.fetch_add(lost, Relaxed);
    }
}

impl Latest {
    /// Applies what other replicas save, until `self` is dropped.
    pub fn apply_remote_updates(self: &Arc<Self>) {
        let Some(store) = self.fetcher.store() else {
            return;
        };
        let updates = store.remote_updates();
        let latest = Arc::downgrade(self);
        // Owns the queue and the loads. Ends with the stream of messages, or with `self`.
        self.runtime.spawn(async move {
            let (mut updates, mut pending) = (pin!(updates), Pending::new(LIMITS));
            let mut loads = FuturesUnordered::new();
            loop {
                tokio::select! {
                    update = updates.next() => {
                        let (Some(update), Some(latest)) = (update, latest.upgrade()) else {
                            return;
                        };
                        latest.note_remote_update(update, &mut pending).await;
                    }
                    Some(feed) = loads.next() => pending.loaded(feed),
                }
                while let Some(feed) = pending.next() {
                    loads.push(load(latest.clone(), feed));
                }
            }
        });
    }

    async fn note_remote_update(&self, update: RemoteUpdate, pending: &mut Pending) {
        match update {
            RemoteUpdate::Saved(feed) => {
                if let Some(interest) = self.interest(feed).await {
                    pending.add(feed, interest);
                }
            }
            RemoteUpdate::Lost(count) => {
                let count = count.unwrap_or(0);
                self.fetcher.lost_messages.add(count);
                let watched = self.hubs().channels();
                tracing::debug!(
                    count,
                    watched = watched.len(),
                    "messages of other replicas were lost"
                );
                for channel in watched {
                    pending.add(channel.into(), Interest::Watched);
                }
            }
        }
        self.fetcher.lost_messages.add(pending.take_dropped());
    }

    /// Whether `feed` is watched or cached here.
    async fn interest(&self, feed: Feed) -> Option<Interest> {
        // Watches read only the channel's own feed.
        if feed.kind.is_none() && self.hubs().is_watched(feed.channel) {
            return Some(Interest::Watched);
        }
        self.coalescer.get(&feed).await.map(|_| Interest::Cached)
    }

    /// Merges the store's entry of `feed` into the cache.
    async fn apply_stored(&self, feed: Feed) {
        let cached = self.coalescer.get(&feed).await;
        let Some(stored) = self.fetcher.load(feed, cached.as_deref()).await else {
            return;
        };
        // A flight may have ended meanwhile.
        self.coalescer
            .update(feed, |current| merge_into(current.map(Arc::as_ref), &stored))
            .await;
    }
}

async fn load(latest: Weak<Latest>, feed: Feed) -> Feed {
    if let Some(latest) = latest.upgrade() {
        latest.apply_stored(feed).await;
    }
    feed
}
