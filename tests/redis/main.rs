//! The shared store over real servers: `redis-server` on the path, or the program that `PLAQUE_TEST_REDIS` names.

mod access;
mod behaviour;
mod cluster;
mod lifetimes;
#[path = "../it/pki.rs"]
#[expect(dead_code, reason = "others need more of it")]
mod pki;
mod poison;
mod proxy;
mod replies;
mod server;
mod sharing;
#[path = "../stores/mod.rs"]
mod stores;
mod trouble;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use plaque::{
    cache_entry::{CacheEntry, Failure},
    clock,
    store::{
        FeedEntry, HeldLease, Lease, RemoteUpdate, Store as _,
        redis::{Redis, Settings},
    },
    upstream::{Feed, UpstreamError},
    video::{Channel, ChannelId},
};
use tokio::time::timeout;

use self::server::Server;

const SECOND: Duration = Duration::from_secs(1);

/// The time limit of what must happen. A machine may be busy.
const SOON: Duration = Duration::from_secs(10);

/// The lifetime of leases in these tests.
const LEASE: Duration = Duration::from_millis(400);

/// The time limit of operations in these tests: longer than the default, for the same reason.
const BUDGET: Duration = Duration::from_millis(500);

fn feed() -> Feed {
    let channel: ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
    channel.into()
}

/// The key of [`feed`].
const KEY: &str = "plaque:1:{UCsXVk37bltHxD1rDPwtNM8Q/all}";

fn settings(url: &str) -> Settings {
    Settings {
        lease: LEASE,
        budget: BUDGET,
        ..Settings::new(url.parse().expect("an address"))
    }
}

/// A replica's store, connected.
async fn store(url: &str) -> Redis {
    soon(Redis::start(settings(url))).await
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it never came")
}

/// An entry of a channel with this title, found that long `ago`.
fn found(title: &str, ago: Duration) -> FeedEntry {
    found_of(feed(), title, ago)
}

/// The same for another feed.
fn found_of(feed: Feed, title: &str, ago: Duration) -> FeedEntry {
    let channel = Channel::new(feed.channel, title, vec![]);
    let at = clock::now()
        .checked_sub(ago)
        .expect("a moment since the machine's start");
    CacheEntry::succeeded(Arc::new(channel), at, SystemTime::now())
}

/// An entry with a lookup that has just failed, with this `pause`.
fn failed(error: UpstreamError, pause: Duration) -> FeedEntry {
    let now = clock::now();
    CacheEntry::failed(
        None,
        Failure {
            out_of_budget: false,
            error,
            at: now,
            retry_at: now + pause,
            streak: 1,
        },
    )
}

fn title(known: &FeedEntry) -> &str {
    known.success.as_ref().expect("a success").value.title()
}

async fn loaded(store: &Redis) -> Option<String> {
    store.load(feed()).await.map(|known| title(&known).to_owned())
}

/// Acquires the lease, which no other replica holds.
async fn acquire_lease(store: &Redis) -> HeldLease {
    match store.lease(feed()).await {
        Lease::Acquired(held) => held,
        Lease::Uncoordinated => panic!("the store is in trouble"),
        Lease::HeldElsewhere(_) => panic!("another has it"),
    }
}

/// The end of the lease, which another replica holds.
async fn held_elsewhere(store: &Redis) -> impl Future<Output = ()> {
    match store.lease(feed()).await {
        Lease::HeldElsewhere(end) => end,
        Lease::Uncoordinated => panic!("the store is in trouble"),
        Lease::Acquired(_) => panic!("nobody has it"),
    }
}
