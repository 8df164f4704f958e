//! The second cache tier: a port to a store that outlives this process, or that replicas share.
//!
//! plaque works the same without one. Only the task of a flight uses the store, after memory and before the upstream. A store answers
//! within its time limit or not at all: it detects and logs its own failures and recovers by itself, and plaque continues without it
//! meanwhile.

pub mod codec;
pub mod file;
pub mod lifetime;
mod metrics;
pub mod redis;

use std::{
    future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{future::BoxFuture, stream::BoxStream};
use prometheus_client::registry::Registry;

use crate::{
    cache_entry::CacheEntry,
    upstream::{Feed, UpstreamError},
    video::{Channel, ChannelName, ResolvedChannel},
    youtube::data_api::{Day, SharedUnits},
};

/// Counts the units of the YouTube Data API in a store, from when that is set.
#[derive(Default)]
pub struct StoredUnits(pub OnceLock<Arc<dyn Store>>);

impl SharedUnits for StoredUnits {
    fn add(&self, day: Day, key: u16, units: u64) -> BoxFuture<'_, Option<u64>> {
        match self.0.get() {
            Some(store) => store.add_units(day.number(), key, units),
            None => Box::pin(future::ready(None)),
        }
    }
}

/// What is cached for a feed.
pub type FeedEntry = CacheEntry<Arc<Channel>, UpstreamError>;

/// What another replica has done in the shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteUpdate {
    /// It has saved an entry of this feed.
    Saved(Feed),
    /// This many messages before this one were lost; `None` if the number is unknown, as after a reconnect. Feeds that must be up to date
    /// have to be loaded again.
    Lost(Option<u64>),
}

/// A second cache tier.
pub trait Store: Send + Sync {
    /// Loads the entry of `feed`, with its current age. `None` if there is none, or if the store does not answer.
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>>;

    /// Requests the lease of `feed`: the right of one replica to look it up.
    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease>;

    /// Saves what was found, notifies other replicas, and ends the lease under which it was looked up. Returns false if an entry saved
    /// under a newer lease is there; that one stays. A stored success keeps its lifetime, also if `entry` is only a failure.
    fn save<'a>(&'a self, feed: Feed, entry: &'a FeedEntry, lease: Lease) -> BoxFuture<'a, bool>;

    /// Adds `units` to the counter of a key of the Data API, by its fingerprint, for the day with this number, and returns its new value. All
    /// replicas share it, and a restart does not reset it. Units that versions without such counters have added count for the next key.
    /// `None` if the store does not answer.
    fn add_units(&self, _day: u32, _key: u16, _units: u64) -> BoxFuture<'_, Option<u64>> {
        Box::pin(future::ready(None))
    }

    /// Loads the channel of `name`, and how long it may still be kept. `None` if there is none, or if the store does not answer.
    fn load_name<'a>(&'a self, _name: &'a ChannelName) -> BoxFuture<'a, Option<(ResolvedChannel, Duration)>> {
        Box::pin(future::ready(None))
    }

    /// Saves the channel of `name`, which was just resolved, for [`NAME_LIFETIME`](lifetime::NAME_LIFETIME).
    fn save_name<'a>(&'a self, _name: &'a ChannelName, _channel: &'a ResolvedChannel) -> BoxFuture<'a, ()> {
        Box::pin(future::ready(()))
    }

    /// The entries that other replicas save from now on. Ends at once if the store is not shared.
    ///
    /// The stream has to be read without delay: its buffer is bounded, and overflow becomes [`RemoteUpdate::Lost`].
    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate>;

    /// Registers the store's metrics.
    fn register(&self, registry: &mut Registry);

    /// Completes pending writes, within `limit`. Called once, at the end.
    fn close(&self, limit: Duration) -> BoxFuture<'_, ()>;
}

/// Who may look up a feed.
pub enum Lease {
    /// This replica may, and others see its lease.
    Acquired(HeldLease),
    /// This replica may, without coordination: no other shares the store, or the store does not answer.
    Uncoordinated,
    /// Another replica holds the lease until this future completes; its entry may be stored then.
    HeldElsewhere(BoxFuture<'static, ()>),
}

/// A lease that other replicas see while this value exists.
pub struct HeldLease {
    /// The fencing token: later leases of the same feed have greater ones.
    pub token: u64,
    /// Renews the lease until it is dropped, and then releases the lease.
    pub renewal: Box<dyn Send>,
}
