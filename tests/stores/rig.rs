//! Fixtures of the suite: kinds of stores, a counting fake upstream, replicas with a counting store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use futures_util::{
    future::{BoxFuture, join_all},
    stream::BoxStream,
};
use parking_lot::Mutex;
use plaque::{
    cache_entry::{self, CacheEntry},
    clock,
    latest::{CacheStatus, FeedEntry, Latest, Policy, Query, Reply, Settings},
    store::{HeldLease, Lease, RemoteUpdate, Store},
    upstream::{Failure, Feed, LookupRequest, Upstream, UpstreamError},
    video::{Channel, ChannelId, Kind as VideoKind, Upload},
};
use prometheus_client::registry::Registry;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

/// Ages by [`settings`]: served without a lookup; served and revalidated; served if the lookup fails.
pub const FRESH: Duration = Duration::from_secs(10);
pub const STALE: Duration = Duration::from_mins(5);
pub const OLD: Duration = Duration::from_mins(30);

/// Longer than any test takes: for what must not happen.
pub const LONG: Duration = Duration::from_mins(10);

/// The time limit of what must happen. A machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// A kind of store.
pub trait Kind {
    /// An empty place for a store.
    fn new() -> Self;

    /// Opens the store of one instance. If it is not shared, only after the previous one was closed.
    async fn open(&self) -> Arc<dyn Store>;

    /// Writes unreadable bytes as the entry of `feed`. No store may be open.
    async fn corrupt(&self, feed: Feed);
}

/// A kind of store that replicas share.
pub trait Shared: Kind {
    /// Ends the lease of `feed` as if its holder had not renewed it in time.
    async fn lose_lease(&self, feed: Feed);
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it never came")
}

/// One of some channels.
pub fn channel(number: u8) -> ChannelId {
    let letter = char::from(b'a' + number).to_string();
    format!("UC{}A", letter.repeat(21)).parse().expect("an ID")
}

/// The channel of most tests.
pub fn feed() -> Feed {
    channel(0).into()
}

pub fn query() -> Query {
    Query {
        channel: feed().channel,
        kind: None,
        max_age: None,
    }
}

/// A query that requires a lookup.
pub fn anew() -> Query {
    Query {
        max_age: Some(Duration::ZERO),
        ..query()
    }
}

pub fn upload(number: usize, kind: VideoKind) -> Upload {
    let at = SystemTime::UNIX_EPOCH + Duration::from_hours(400_000 + number as u64);
    Upload {
        id: format!("upload{number:04}A").parse().expect("an ID"),
        kind,
        title: format!("Upload {number}"),
        published: Some(at),
        updated: None,
        thumbnail: None,
        views: None,
    }
}

/// An entry of `feed` with a success of this `age`, whose channel has this `title`.
pub fn success(feed: Feed, title: &str, age: Duration) -> FeedEntry {
    let channel = Channel::new(feed.channel, title, vec![upload(1, VideoKind::Video)]);
    good_channel(channel, age)
}

pub fn good_channel(channel: Channel, age: Duration) -> FeedEntry {
    let at = clock::now().checked_sub(age).expect("the machine runs since");
    CacheEntry::succeeded(Arc::new(channel), at, SystemTime::now() - age)
}

/// An entry with only a failure: `streak` of them, the last one that long `ago`, with another `pause` to go.
pub fn bad(error: UpstreamError, streak: u32, ago: Duration, pause: Duration) -> FeedEntry {
    let now = clock::now();
    let failure = cache_entry::Failure {
        out_of_budget: false,
        error,
        at: now.checked_sub(ago).expect("the machine runs since"),
        retry_at: now + pause,
        streak,
    };
    CacheEntry::failed(None, failure)
}

/// Saves an entry as an earlier instance, which then stops.
pub async fn saved_before<K: Kind>(kind: &K, feed: Feed, known: &FeedEntry) {
    let store = kind.open().await;
    store.save(feed, known, Lease::Uncoordinated).await;
    store.close(LONG).await;
}

type Answers = dyn Fn(usize, Feed) -> Result<Channel, Failure> + Send + Sync;

/// An upstream that counts lookups, which wait at a gate.
pub struct Fake {
    answers: Box<Answers>,
    time_limit: Duration,
    lookups: AtomicUsize,
    arrivals: Semaphore,
    gate: Semaphore,
}

impl Fake {
    /// Its first, second, … lookup returns what `answers` says, once [`Self::release`] lets it.
    pub fn gated(
        answers: impl Fn(usize, Feed) -> Result<Channel, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::with(answers, 0, LONG))
    }

    /// Returns at once.
    pub fn open(
        answers: impl Fn(usize, Feed) -> Result<Channel, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::with(answers, Semaphore::MAX_PERMITS, LONG))
    }

    pub fn with(
        answers: impl Fn(usize, Feed) -> Result<Channel, Failure> + Send + Sync + 'static,
        permits: usize,
        time_limit: Duration,
    ) -> Self {
        Self {
            answers: Box::new(answers),
            time_limit,
            lookups: AtomicUsize::new(0),
            arrivals: Semaphore::new(0),
            gate: Semaphore::new(permits),
        }
    }

    /// Waits until one more lookup has begun.
    pub async fn arrival(&self) {
        self.arrivals.acquire().await.expect("never closed").forget();
    }

    /// Lets one lookup through the gate.
    pub fn release(&self) {
        self.gate.add_permits(1);
    }

    pub fn lookups(&self) -> usize {
        self.lookups.load(SeqCst)
    }
}

impl Upstream for Fake {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async move {
            let number = self.lookups.fetch_add(1, SeqCst) + 1;
            self.arrivals.add_permits(1);
            self.gate.acquire().await.expect("never closed").forget();
            (self.answers)(number, feed)
        })
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }
}

/// The channel as found by the lookup of this number, which is its title and its number of uploads.
#[expect(clippy::unnecessary_wraps, reason = "it is what an upstream answers")]
pub fn found(number: usize, feed: Feed) -> Result<Channel, Failure> {
    let uploads = (1..=number)
        .map(|number| upload(number, VideoKind::Video))
        .collect();
    Ok(Channel::new(feed.channel, &format!("lookup {number}"), uploads))
}

/// For lookups that must not happen.
pub fn never(number: usize, feed: Feed) -> Result<Channel, Failure> {
    panic!("lookup {number} of {feed}, which was not to be")
}

/// A failure that is cached for longer than a test takes.
pub fn fails(error: UpstreamError) -> impl Fn(usize, Feed) -> Result<Channel, Failure> {
    let retry_after = Some(Duration::from_mins(1));
    move |_, _| {
        let error = error.clone();
        Err(Failure {
            out_of_budget: false,
            error,
            retry_after,
        })
    }
}

/// The default freshness, but with pauses that are longer than a test.
pub fn settings() -> Settings {
    Settings {
        policy: Policy {
            fresh_for: Duration::from_mins(1),
            stale_while_revalidate: Duration::from_mins(10),
            stale_if_error: Duration::from_hours(7 * 24),
            negative_for: Duration::from_mins(1),
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 16 << 20,
        max_waiters: 100_000,
        watch_every: LONG,
        watch_at_most: LONG,
        max_watched: 100_000,
        canary: None,
    }
}

/// One instance of plaque.
pub struct Replica {
    pub latest: Arc<Latest>,
    pub store: Arc<CountedStore>,
}

impl Replica {
    pub async fn start(kind: &impl Kind, upstream: &Arc<Fake>) -> Self {
        Self::with(kind.open().await, upstream)
    }

    pub fn with(store: Arc<dyn Store>, upstream: &Arc<Fake>) -> Self {
        let store = Arc::new(CountedStore {
            store,
            counts: watch::Sender::default(),
            before_lease: Mutex::default(),
            after_load: Mutex::default(),
        });
        let (port, upstream) = (Arc::clone(&store) as Arc<dyn Store>, Arc::clone(upstream));
        let latest = Arc::new(Latest::new(upstream, Some(port), settings(), Handle::current()));
        latest.apply_remote_updates();
        Self { latest, store }
    }

    pub async fn get(&self, query: Query) -> Reply {
        self.latest.get(query).await
    }

    /// What concurrent callers get.
    pub async fn get_many(&self, count: usize, query: Query) -> Vec<String> {
        let replies = join_all((0..count).map(|_| self.latest.get(query))).await;
        replies.iter().map(summary).collect()
    }

    /// Starts a call.
    pub fn begin(&self, query: Query) -> JoinHandle<Reply> {
        let latest = Arc::clone(&self.latest);
        tokio::spawn(async move { latest.get(query).await })
    }

    /// Stops after the last call.
    pub async fn stop(self) {
        self.latest.close_store(LONG).await;
    }
}

/// What a caller gets: the channel's title and whether it is stale, or the error.
pub fn summary(reply: &Reply) -> String {
    match &reply.outcome {
        Ok(answer) if answer.stale => format!("{} (stale)", answer.channel().title()),
        Ok(answer) => answer.channel().title().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// How long a cached answer stays fresh.
pub fn ttl(reply: &Reply) -> i64 {
    match reply.cache_status {
        CacheStatus::Hit { ttl } => ttl,
        CacheStatus::Forwarded { .. } => panic!("{reply:?}"),
    }
}

/// Operations of a store, begun and completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub loads: usize,
    pub leases: usize,
    pub saves: usize,
}

/// A store that counts its operations.
pub struct CountedStore {
    store: Arc<dyn Store>,
    counts: watch::Sender<Counts>,
    before_lease: Mutex<Option<BoxFuture<'static, ()>>>,
    after_load: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl CountedStore {
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts satisfy a condition.
    pub async fn until(&self, happened: impl FnMut(&Counts) -> bool) {
        let mut counts = self.counts.subscribe();
        counts.wait_for(happened).await.expect("its sender is here");
    }

    /// Runs `future` before the next lease is requested.
    pub fn before_lease(&self, future: impl Future<Output = ()> + Send + 'static) {
        *self.before_lease.lock() = Some(Box::pin(future));
    }

    /// Runs `future` before the next load returns.
    pub fn after_load(&self, future: impl Future<Output = ()> + Send + 'static) {
        *self.after_load.lock() = Some(Box::pin(future));
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }
}

impl Store for CountedStore {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        Box::pin(async move {
            let known = self.store.load(feed).await;
            let after = self.after_load.lock().take();
            if let Some(after) = after {
                after.await;
            }
            self.count(|counts| counts.loads += 1);
            known
        })
    }

    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let before = self.before_lease.lock().take();
            if let Some(before) = before {
                before.await;
            }
            let lease = self.store.lease(feed).await;
            self.count(|counts| counts.leases += 1);
            lease
        })
    }

    fn save<'a>(&'a self, feed: Feed, known: &'a FeedEntry, lease: Lease) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let is_newest = self.store.save(feed, known, lease).await;
            self.count(|counts| counts.saves += 1);
            is_newest
        })
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        self.store.remote_updates()
    }

    fn register(&self, registry: &mut Registry) {
        self.store.register(registry);
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, ()> {
        self.store.close(limit)
    }
}

/// Acquires the lease of `feed` as soon as no other replica holds it.
pub async fn acquire_lease(store: &dyn Store, feed: Feed) -> HeldLease {
    loop {
        match store.lease(feed).await {
            Lease::Acquired(held) => return held,
            Lease::HeldElsewhere(end) => end.await,
            Lease::Uncoordinated => panic!("the store is in trouble"),
        }
    }
}
