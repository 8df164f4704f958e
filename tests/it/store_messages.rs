//! A flood of messages from other replicas: watched feeds stay up to date, and no feed is loaded needlessly. The store is slow in virtual
//! time.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use plaque::{
    cache_entry::CacheEntry,
    clock,
    latest::{Event, FeedEntry, Latest, Query, Watch, WatchQuery},
    store::{Lease, RemoteUpdate, Store},
    upstream::{Feed, Upstream},
    video::{Channel, ChannelId, Kind},
};
use prometheus_client::registry::Registry;
use tokio::{
    runtime::Handle,
    sync::broadcast::{self, error::RecvError},
    time::{Instant, sleep, sleep_until},
};

use crate::stores::{Fake, settings, upload};

const ROUND_TRIP: Duration = Duration::from_micros(2500);

/// As many messages wait for a reader, as with Redis.
const MAX_UPDATES: usize = 1 << 13;

fn feed(number: usize) -> Feed {
    let channel: ChannelId = format!("UC{number:021}A").parse().expect("an ID");
    channel.into()
}

/// A store of which each answer takes a round trip. A feed has as many uploads as it was saved times.
struct Slow {
    versions: Mutex<HashMap<Feed, usize>>,
    messages: broadcast::Sender<RemoteUpdate>,
    loads: Mutex<HashMap<Feed, usize>>,
    loading: AtomicUsize,
    most_loading: AtomicUsize,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            versions: Mutex::default(),
            messages: broadcast::channel(MAX_UPDATES).0,
            loads: Mutex::default(),
            loading: AtomicUsize::new(0),
            most_loading: AtomicUsize::new(0),
        })
    }

    /// Another replica saves a newer version of `feed`, without a message.
    fn save_silently(&self, feed: Feed) {
        *self.versions.lock().entry(feed).or_default() += 1;
    }

    fn save(&self, feed: Feed) {
        self.save_silently(feed);
        let _ = self.messages.send(RemoteUpdate::Saved(feed));
    }

    fn found(version: usize, feed: Feed) -> FeedEntry {
        let uploads = (version.saturating_sub(15)..version).map(|number| upload(number + 1, Kind::Video));
        let channel = Channel::new(feed.channel, "a channel", uploads.collect()).with_entries(15);
        CacheEntry::succeeded(Arc::new(channel), clock::now(), SystemTime::now())
    }

    fn loads(&self, feeds: impl Iterator<Item = usize>) -> usize {
        let loads = self.loads.lock();
        feeds.filter_map(|number| loads.get(&feed(number))).sum()
    }
}

impl Store for Slow {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        Box::pin(async move {
            *self.loads.lock().entry(feed).or_default() += 1;
            let loading = self.loading.fetch_add(1, SeqCst) + 1;
            self.most_loading.fetch_max(loading, SeqCst);
            let version = self.versions.lock().get(&feed).copied();
            sleep(ROUND_TRIP).await;
            self.loading.fetch_sub(1, SeqCst);
            version.map(|version| Self::found(version, feed))
        })
    }

    fn lease(&self, _feed: Feed) -> BoxFuture<'_, Lease> {
        future::ready(Lease::Uncoordinated).boxed()
    }

    fn save<'a>(&'a self, _feed: Feed, _known: &'a FeedEntry, _lease: Lease) -> BoxFuture<'a, bool> {
        future::ready(true).boxed()
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        stream::unfold(self.messages.subscribe(), |mut messages| async {
            match messages.recv().await {
                Ok(update) => Some((update, messages)),
                Err(RecvError::Lagged(lost)) => Some((RemoteUpdate::Lost(Some(lost)), messages)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    fn register(&self, _registry: &mut Registry) {}

    fn close(&self, _limit: Duration) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }
}

/// A replica beside others, none of whose lookups gets an answer of its own.
struct Replica {
    store: Arc<Slow>,
    upstream: Arc<Fake>,
    latest: Arc<Latest>,
    registry: Registry,
}

impl Replica {
    fn start() -> Self {
        let store = Slow::new();
        let upstream = Fake::gated(crate::stores::never);
        let port = Arc::clone(&store) as Arc<dyn Store>;
        let source = Arc::clone(&upstream) as Arc<dyn Upstream>;
        let latest = Arc::new(Latest::new(source, Some(port), settings(), Handle::current()));
        latest.apply_remote_updates();
        let mut registry = Registry::default();
        latest.register(&mut registry);
        Self {
            store,
            upstream,
            latest,
            registry,
        }
    }

    /// The feed is cached.
    async fn ask(&self, number: usize) {
        self.store.save_silently(feed(number));
        let query = Query {
            channel: feed(number).channel,
            kind: None,
            max_age: None,
        };
        self.latest.get(query).await.outcome.expect("it is stored");
    }

    /// A watch which has been sent what there was when it began.
    async fn watch(&self, number: usize) -> Watch {
        self.ask(number).await;
        let mut watch = self.begin_watch(number);
        assert_eq!(next(&mut watch).await, "Upload 1");
        watch
    }

    fn begin_watch(&self, number: usize) -> Watch {
        let query = WatchQuery {
            channels: vec![feed(number).channel],
            kind: None,
            published_after: None,
            resume_tokens: vec![],
        };
        self.latest.watch(&query).expect("room for one more")
    }

    fn lost(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("store_messages_lost_total "));
        line.expect("it is there").parse().expect("a number")
    }
}

async fn next(watch: &mut Watch) -> String {
    match watch.next().await.expect("it goes on").expect("no error").event {
        Event::Upload { channel, upload, .. } => {
            channel.upload(upload).expect("it has it").title().to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_flood_of_messages_watched_feeds_are_applied_at_once_and_unknown_ones_cost_nothing() {
    const SECONDS: usize = 15;
    let replica = Replica::start();
    let (watched, known, unknown) = (0..20, 1000..2000, 5000..9000);
    let mut streams = vec![];
    for number in watched.clone() {
        streams.push(replica.watch(number).await);
    }
    for number in known.clone() {
        replica.ask(number).await;
    }
    let loads = |feeds: std::ops::Range<usize>| replica.store.loads(feeds);
    let before = (loads(watched.clone()), loads(known.clone()));
    let began = Instant::now();

    // Each watch gets each version within a tenth of a second, all the time.
    let delays = streams.into_iter().enumerate().map(|(number, mut watch)| {
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for version in 0..SECONDS {
                assert_eq!(next(&mut watch).await, format!("Upload {}", version + 2));
                let saved = began + Duration::from_millis((version * 1000 + number * 40) as u64);
                longest = longest.max(saved.elapsed());
            }
            longest
        })
    });
    let delays: Vec<_> = delays.collect();

    let mut unwatched = 0;
    for millisecond in 0..SECONDS * 1000 {
        sleep_until(began + Duration::from_millis(millisecond as u64)).await;
        let (number, due) = (millisecond % 1000 / 40, millisecond % 40 == 0);
        if due && watched.contains(&number) {
            replica.store.save(feed(number));
        }
        for _ in 0..5 {
            // 3,000 a second that this replica knows, 2,000 that it does not.
            let number = match unwatched % 5 {
                0..3 => known.start + unwatched * 7 % known.len(),
                _ => unknown.start + unwatched % unknown.len(),
            };
            replica.store.save(feed(number));
            unwatched += 1;
        }
    }
    let mut longest = Duration::ZERO;
    for delay in delays {
        longest = longest.max(delay.await.expect("no panic"));
    }
    assert!(longest <= Duration::from_millis(100), "{longest:?}");
    assert_eq!(replica.lost(), 0);
    // Wait until all is applied: a hundred round trips are more than enough.
    sleep(ROUND_TRIP * 100).await;
    assert_eq!(loads(unknown), 0);
    assert_eq!(loads(watched) - before.0, 20 * SECONDS);
    let known = loads(known) - before.1;
    assert!(known <= 3000 * SECONDS, "{known}");
    let at_once = replica.store.most_loading.load(SeqCst);
    assert!((2..=64).contains(&at_once), "{at_once}");
}

#[tokio::test(start_paused = true)]
async fn repeats_of_a_feed_are_merged_and_the_last_one_is_applied() {
    let replica = Replica::start();
    let mut watch = replica.watch(1).await;
    let before = replica.store.loads(1..2);
    for _ in 0..10 {
        replica.store.save(feed(1));
    }
    while next(&mut watch).await != "Upload 11" {}
    sleep(ROUND_TRIP * 10).await;
    assert!(replica.store.loads(1..2) - before <= 2);
    assert_eq!(replica.lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_lost_messages_all_watched_feeds_are_loaded_once_more_and_the_loss_is_counted() {
    let replica = Replica::start();
    let mut watches = [replica.watch(1).await, replica.watch(2).await];
    replica.ask(3).await;
    let before = replica.store.loads(1..4);
    // The connection broke: the number of lost messages is unknown.
    for number in 1..4 {
        replica.store.save_silently(feed(number));
    }
    let _ = replica.store.messages.send(RemoteUpdate::Lost(None));
    for watch in &mut watches {
        assert_eq!(next(watch).await, "Upload 2");
    }
    sleep(ROUND_TRIP * 10).await;
    assert_eq!((replica.store.loads(1..4) - before, replica.lost()), (2, 0));

    // More than can wait, before anybody can read one: the first is lost, and others.
    for number in [1].into_iter().chain(10..10 + MAX_UPDATES + 99) {
        replica.store.save(feed(number));
    }
    assert_eq!(next(&mut watches[0]).await, "Upload 3");
    sleep(ROUND_TRIP * 10).await;
    assert_eq!((replica.store.loads(1..4) - before, replica.lost()), (4, 100));
}

/// With the lookup inside moka's gate for the feed (`or_insert_with_if`, `and_compute_with`), both would wait for its end: docs/adr/0004.
#[tokio::test(start_paused = true)]
async fn what_another_replica_found_is_applied_while_a_lookup_is_in_flight() {
    let replica = Replica::start();
    let query = Query {
        channel: feed(1).channel,
        kind: None,
        max_age: None,
    };
    let mut lookup = pin!(replica.latest.get(query));
    assert!(lookup.as_mut().now_or_never().is_none());
    replica.upstream.arrival().await;
    let mut watch = replica.begin_watch(1);

    replica.store.save(feed(1));
    assert_eq!(next(&mut watch).await, "Upload 1");
    let answer = replica.latest.get(query).now_or_never().expect("a hit");
    assert_eq!(answer.outcome.expect("it is cached").video().title(), "Upload 1");
    assert!(lookup.now_or_never().is_none(), "the lookup has ended");
}
