//! Replicas in one process that share a store in memory: leases and messages, deterministically.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture, join_all},
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use plaque::{
    clock,
    latest::{CacheStatus, FeedEntry, Latest, LookupError, Query},
    store::{HeldLease, Lease, RemoteUpdate, Store, codec, lifetime::NAME_LIFETIME},
    upstream::{Feed, Upstream, UpstreamError},
    video::{ChannelName, Kind as VideoKind, ResolvedChannel},
};
use prometheus_client::registry::Registry;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, broadcast},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::stores::{
    Fake, Kind, LONG, OLD, Replica, STALE, Shared, acquire_lease, anew, every_store, fails, feed, found,
    query, saved_before, settings, shared_store, success,
};

every_store!(Memory);
shared_store!(Memory);

/// What all replicas share.
#[derive(Clone)]
pub struct Memory(Arc<Inside>);

struct Inside {
    feeds: Mutex<HashMap<Feed, Place>>,
    units: Mutex<HashMap<(u32, u16), u64>>,
    names: Mutex<HashMap<ChannelName, ResolvedChannel>>,
    /// Who has saved something, and of what.
    saved: broadcast::Sender<(u64, Feed)>,
    replicas: AtomicU64,
}

/// What there is of a feed.
#[derive(Default)]
struct Place {
    bytes: Option<(Vec<u8>, Instant)>,
    /// The token under which that was found.
    fence: u64,
    /// The last token given.
    last: u64,
    /// The token in force, and its end.
    lease: Option<(u64, CancellationToken)>,
}

impl Place {
    /// Ends the lease, if it has this `token`.
    fn end(&mut self, token: u64) {
        if let Some((_, ended)) = self.lease.take_if(|(current, _)| *current == token) {
            ended.cancel();
        }
    }
}

/// What one replica has of it.
struct Port {
    memory: Memory,
    replica: u64,
}

impl Kind for Memory {
    fn new() -> Self {
        Self(Arc::new(Inside {
            feeds: Mutex::default(),
            units: Mutex::default(),
            names: Mutex::default(),
            saved: broadcast::channel(100).0,
            replicas: AtomicU64::new(0),
        }))
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Port {
            memory: self.clone(),
            replica: self.0.replicas.fetch_add(1, SeqCst),
        })
    }

    async fn corrupt(&self, feed: Feed) {
        self.at(feed, |place| {
            place.bytes = Some((b"\xff\xff".into(), clock::now()));
        });
    }
}

impl Shared for Memory {
    async fn lose_lease(&self, feed: Feed) {
        self.at(feed, |place| place.end(place.last));
    }
}

impl Memory {
    fn at<T>(&self, feed: Feed, change: impl FnOnce(&mut Place) -> T) -> T {
        change(self.0.feeds.lock().entry(feed).or_default())
    }
}

/// Gives a lease up.
struct Renewal {
    memory: Memory,
    feed: Feed,
    token: u64,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.memory.at(self.feed, |place| place.end(self.token));
    }
}

impl Store for Port {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        let found = self.memory.at(feed, |place| place.bytes.clone());
        let known = found.and_then(|(bytes, saved)| {
            let now = clock::now();
            let since = codec::Since::Known(now.saturating_duration_since(saved));
            codec::decode(&bytes, feed, since, now).ok()
        });
        future::ready(known).boxed()
    }

    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease> {
        let lease = self.memory.at(feed, |place| {
            if let Some((_, ended)) = &place.lease {
                return Lease::HeldElsewhere(ended.clone().cancelled_owned().boxed());
            }
            place.last += 1;
            place.lease = Some((place.last, CancellationToken::new()));
            let renewal = Renewal {
                memory: self.memory.clone(),
                feed,
                token: place.last,
            };
            Lease::Acquired(HeldLease {
                token: place.last,
                renewal: Box::new(renewal),
            })
        });
        future::ready(lease).boxed()
    }

    fn save<'a>(&'a self, feed: Feed, known: &'a FeedEntry, lease: Lease) -> BoxFuture<'a, bool> {
        let now = clock::now();
        let is_newer = codec::encode(known, now).map(|bytes| {
            self.memory.at(feed, |place| {
                let token = if let Lease::Acquired(held) = &lease {
                    held.token
                } else {
                    place.last + 1
                };
                let is_newer = token >= place.fence;
                if is_newer {
                    place.fence = token;
                    place.last = place.last.max(token);
                    place.bytes = Some((bytes, now));
                }
                is_newer
            })
        });
        // Not before: others would find neither a lease nor an answer.
        drop(lease);
        if is_newer == Some(true) {
            // Fails if there is no other replica.
            let _ = self.memory.0.saved.send((self.replica, feed));
        }
        future::ready(is_newer.unwrap_or(true)).boxed()
    }

    fn add_units(&self, day: u32, key: u16, units: u64) -> BoxFuture<'_, Option<u64>> {
        let mut all = self.memory.0.units.lock();
        let sum = all.entry((day, key)).or_default();
        *sum += units;
        future::ready(Some(*sum)).boxed()
    }

    fn load_name<'a>(&'a self, name: &'a ChannelName) -> BoxFuture<'a, Option<(ResolvedChannel, Duration)>> {
        let channel = self.memory.0.names.lock().get(name).cloned();
        future::ready(channel.map(|channel| (channel, NAME_LIFETIME))).boxed()
    }

    fn save_name<'a>(&'a self, name: &'a ChannelName, channel: &'a ResolvedChannel) -> BoxFuture<'a, ()> {
        self.memory.0.names.lock().insert(name.clone(), channel.clone());
        future::ready(()).boxed()
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        let own = self.replica;
        let saved = stream::unfold(self.memory.0.saved.subscribe(), |mut saved| async {
            Some((saved.recv().await.ok()?, saved))
        });
        saved
            .filter_map(move |(replica, feed)| {
                future::ready((replica != own).then_some(RemoteUpdate::Saved(feed)))
            })
            .boxed()
    }

    fn register(&self, _registry: &mut Registry) {}

    fn close(&self, _limit: Duration) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }
}

/// A store that is in trouble from beginning to end.
struct Troubled;

impl Store for Troubled {
    fn load(&self, _feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        future::ready(None).boxed()
    }

    fn lease(&self, _feed: Feed) -> BoxFuture<'_, Lease> {
        future::ready(Lease::Uncoordinated).boxed()
    }

    fn save<'a>(&'a self, _feed: Feed, _known: &'a FeedEntry, _lease: Lease) -> BoxFuture<'a, bool> {
        future::ready(true).boxed()
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        stream::empty().boxed()
    }

    fn register(&self, _registry: &mut Registry) {}

    fn close(&self, _limit: Duration) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }
}

#[tokio::test]
async fn a_store_in_trouble_is_like_none() {
    let store: [Option<Arc<dyn Store>>; 2] = [None, Some(Arc::new(Troubled))];
    let mut seen = Vec::new();
    for store in store {
        let upstream = Fake::open(|number, feed| match number {
            2 => Err(UpstreamError::Status(503).into()),
            _ => found(number, feed),
        });
        let port = Arc::clone(&upstream) as Arc<dyn Upstream>;
        let latest = Arc::new(Latest::new(port, store, settings(), Handle::current()));
        latest.apply_remote_updates();
        let mut told = Vec::new();
        let short = Query {
            kind: Some(VideoKind::Short),
            ..query()
        };
        for query in [query(), query(), anew(), anew(), short, short] {
            for reply in join_all((0..100).map(|_| latest.get(query))).await {
                let status = matches!(reply.cache_status, CacheStatus::Forwarded { .. });
                told.push((status, crate::stores::summary(&reply), upstream.lookups()));
            }
        }
        latest.close_store(LONG).await;
        seen.push(told);
    }
    // The first, the one that failed, and that of the kind.
    assert_eq!(seen[0].last().expect("some").2, 3);
    assert_eq!(seen[0], seen[1]);
}

/// What a lookup may take at the upstream, in those tests that have a clock of their own.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// A replica which knows what was found so long ago, where another has the lease and never ends it.
async fn beside_one_that_hangs(age: Duration, upstream: &Arc<Fake>) -> (Replica, HeldLease) {
    let memory = Memory::new();
    saved_before(&memory, feed(), &success(feed(), "kept", age)).await;
    let held = acquire_lease(&*memory.open().await, feed()).await;
    (Replica::start(&memory, upstream).await, held)
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_end_is_waited_for_as_long_as_a_lookup_may_take() {
    let upstream = Arc::new(Fake::with(found, Semaphore::MAX_PERMITS, TIME_LIMIT));
    let (replica, _held) = beside_one_that_hangs(OLD, &upstream).await;
    let began = tokio::time::Instant::now();
    assert_eq!(replica.get_many(100, query()).await, vec!["lookup 1"; 100]);
    assert!(began.elapsed() >= TIME_LIMIT && began.elapsed() < TIME_LIMIT * 2);
    assert_eq!(upstream.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn if_our_own_lookup_then_fails_an_old_answer_is_given() {
    let failing = fails(UpstreamError::TimedOut(TIME_LIMIT));
    let upstream = Arc::new(Fake::with(failing, Semaphore::MAX_PERMITS, TIME_LIMIT));
    let (replica, _held) = beside_one_that_hangs(OLD, &upstream).await;
    assert_eq!(replica.get_many(100, query()).await, vec!["kept (stale)"; 100]);
    assert_eq!(upstream.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_ends_whatever_hangs() {
    let test = async {
        // An upstream that does not keep to its own limit.
        let upstream = Arc::new(Fake::with(found, 0, TIME_LIMIT));
        let (replica, _held) = beside_one_that_hangs(STALE, &upstream).await;
        let began = tokio::time::Instant::now();
        assert_eq!(replica.get_many(100, query()).await, vec!["kept (stale)"; 100]);
        assert_eq!(replica.get_many(100, anew()).await, vec!["kept (stale)"; 100]);
        assert!(began.elapsed() < TIME_LIMIT * 3, "{:?}", began.elapsed());
        let unknown = Memory::new();
        let _held = acquire_lease(&*unknown.open().await, feed()).await;
        let replica = Replica::start(&unknown, &upstream).await;
        let error = replica.get(query()).await.outcome.expect_err("nothing");
        assert!(
            matches!(error, LookupError::Upstream(UpstreamError::TimedOut(_))),
            "{error:?}"
        );
        assert_eq!((replica.latest.flights(), replica.latest.waiting()), (0, 0));
    };
    timeout(LONG, test).await.expect("it never ended");
}
