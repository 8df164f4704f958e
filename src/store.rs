//! The port to a second tier: what outlives this process, or is shared with others.
//!
//! The core works the same with none. A store is only ever asked by the task of a flight, after memory and before the upstream. It
//! answers in time or not at all: whatever goes wrong in it is its own to notice, to tell of once, and to mend; plaque goes on
//! without it meanwhile.

pub mod codec;
pub mod file;
pub mod lifetime;
mod metrics;
pub mod redis;

use std::{sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use prometheus_client::registry::Registry;

use crate::{
    cache_entry::CacheEntry,
    upstream::{Feed, UpstreamError},
    video::Channel,
};

/// What is known of a feed.
pub type Known = CacheEntry<Arc<Channel>, UpstreamError>;

/// What others who share a store have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteUpdate {
    /// Another has saved something of this feed.
    Saved(Feed),
    /// So many messages before this one were lost; `None` if nobody can tell how many, as after a reconnect. Whatever has to be up to
    /// date has to be loaded again.
    Lost(Option<u64>),
}

/// A second tier.
pub trait Store: Send + Sync {
    /// What is kept of `feed`, with the age that it has by now. `None` if there is nothing, or the store cannot tell.
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<Known>>;

    /// Asks to be the one, among all who share the store, who looks `feed` up.
    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease>;

    /// Keeps what was found, and tells others of it; ends the lease under which it was looked up. Something newer than that lease
    /// stays: then this is false. A good answer that is there stays for as long as it would, also if `known` is only a failure.
    fn save<'a>(&'a self, feed: Feed, known: &'a Known, lease: Lease) -> BoxFuture<'a, bool>;

    /// What others save, from now on. Ends at once where there are no others.
    ///
    /// Has to be read without delay: what waits is bounded, and then becomes [`RemoteUpdate::Lost`].
    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate>;

    /// Makes what it counts known to whoever reads `registry`.
    fn register(&self, registry: &mut Registry);

    /// Keeps what is still on its way, for at most `limit`. Called once, at the end.
    fn close(&self, limit: Duration) -> BoxFuture<'_, ()>;
}

/// Who may look a feed up.
pub enum Lease {
    /// We, as others see.
    Acquired(HeldLease),
    /// We, since nobody else is there, or nobody can be asked.
    Uncoordinated,
    /// Another, until this ends: their answer may be there then.
    HeldElsewhere(BoxFuture<'static, ()>),
}

/// A lease that others see as long as this is there.
pub struct HeldLease {
    /// Later leases of the same feed have greater ones.
    pub token: u64,
    /// Renews the lease until it is dropped, which gives it up.
    pub renewal: Box<dyn Send>,
}
