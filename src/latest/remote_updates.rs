//! Applies what other replicas that share the store have found.
//!
//! A message of the store names a feed and no more. If somebody here watches the feed or has asked for it, it is loaded from the store;
//! otherwise the message costs nothing. Loads are concurrent, since one connection carries many commands at once, and [`Pending`]
//! orders them. After lost messages (there were too many, or the connection broke) every watched feed is loaded once more.

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
use super::{Latest, source::added};
use crate::{store::RemoteUpdate, upstream::Feed};

/// At a round trip of 2.5 ms, 64 loads at once are 25,000 a second: several times what a busy set of replicas saves. A quarter is kept
/// free of feeds that nobody watches, so that a watched one never waits for them. Those that wait are as many as most replicas cache,
/// at 32 bytes each: what is dropped of them is looked up or loaded when somebody asks.
const LIMITS: Limits = Limits {
    loads: 64,
    other_loads: 48,
    others: 1 << 16,
};

/// Messages of other replicas that were lost so far.
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
    /// Applies what other replicas find, until this is dropped.
    pub fn apply_remote_updates(self: &Arc<Self>) {
        let Some(store) = self.source.store() else {
            return;
        };
        let updates = store.remote_updates();
        let latest = Arc::downgrade(self);
        // Owns the feeds that wait and their loads. Ends with the store's messages, or with this.
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
                self.source.lost_messages.add(count);
                let watched = self.source.hubs.channels();
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
        self.source.lost_messages.add(pending.take_lost());
    }

    /// Who wants what another has found of `feed`.
    async fn interest(&self, feed: Feed) -> Option<Interest> {
        // Watches take in the channel's own feed only.
        if feed.kind.is_none() && self.source.hubs.is_watched(feed.channel) {
            return Some(Interest::Watched);
        }
        self.coalescer.get(&feed).await.map(|_| Interest::Cached)
    }

    /// Applies what the store has of `feed`, if that is new.
    async fn apply_stored(&self, feed: Feed) {
        let known = self.coalescer.get(&feed).await;
        let Some(stored) = self.source.kept(feed, known.as_deref()).await else {
            return;
        };
        // A lookup may have ended meanwhile.
        self.coalescer
            .update(feed, |known| added(&stored, known.map(Arc::as_ref)))
            .await;
    }
}

async fn load(latest: Weak<Latest>, feed: Feed) -> Feed {
    if let Some(latest) = latest.upgrade() {
        latest.apply_stored(feed).await;
    }
    feed
}
