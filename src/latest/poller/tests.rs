//! Polls of watched channels in virtual time. Ages of answers are measured by the real clock, so they do not change meanwhile.

use std::time::SystemTime;

use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{runtime::Handle, time::sleep};

use super::*;
use crate::{
    cache_entry::{self, CacheEntry},
    latest::{Policy, Settings, Watch, WatchQuery},
    store::{Lease, RemoteUpdate, Store},
    upstream::{Failure, Fallback, Feed, LookupRequest, Upstream, UpstreamError},
    video::{Channel, Source},
};

/// An upstream that records its lookups.
struct Fake {
    room: Option<f64>,
    fails: Option<Failure>,
    takes: Duration,
    /// When it has a budget.
    budget_at: Duration,
    lookups: Mutex<Vec<(ChannelId, Duration)>>,
    begun: Instant,
}

impl Fake {
    fn new(room: Option<f64>) -> Self {
        Self {
            room,
            fails: None,
            takes: Duration::ZERO,
            budget_at: Duration::ZERO,
            lookups: Mutex::default(),
            begun: now(),
        }
    }

    /// The lookups and their times.
    fn lookups(&self) -> Vec<(ChannelId, Duration)> {
        self.lookups.lock().clone()
    }
}

impl Upstream for Fake {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        let at = now() - self.begun;
        self.lookups.lock().push((feed.channel, at));
        let found = match &self.fails {
            Some(failure) => Err(failure.clone()),
            None if at < self.budget_at => Err(Failure {
                out_of_budget: true,
                ..UpstreamError::Busy.into()
            }),
            None => Ok(Channel::new(feed.channel, "found", Vec::new())),
        };
        Box::pin(async move {
            sleep(self.takes).await;
            found
        })
    }

    fn has_budget(&self, _request: &LookupRequest) -> bool {
        now() - self.begun >= self.budget_at
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn room_for_polls(&self) -> Option<f64> {
        self.room
    }
}

/// A store in which every channel is, looked up that long ago by another; and perhaps the failure of the last lookup, at the same time.
struct Full(Duration, Option<UpstreamError>);

impl Store for Full {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        let channel = Channel::new(feed.channel, "another's", Vec::new());
        let at = clock::now().checked_sub(self.0).expect("the machine runs since");
        let mut known = CacheEntry::succeeded(Arc::new(channel), at, SystemTime::now() - self.0);
        known.failure = self.1.clone().map(|error| cache_entry::Failure {
            error,
            at,
            retry_at: at + Duration::from_hours(1),
            streak: 1,
            out_of_budget: true,
        });
        Box::pin(async move { Some(known) })
    }

    fn lease(&self, _feed: Feed) -> BoxFuture<'_, Lease> {
        Box::pin(async { Lease::Uncoordinated })
    }

    fn save<'a>(&'a self, _feed: Feed, _known: &'a FeedEntry, _lease: Lease) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        stream::pending().boxed()
    }

    fn register(&self, _registry: &mut Registry) {}

    fn close(&self, _limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn settings(every: u64) -> Settings {
    Settings {
        policy: Policy {
            fresh_for: Duration::from_mins(1),
            stale_while_revalidate: Duration::from_mins(10),
            stale_if_error: Duration::from_hours(1),
            negative_for: Duration::from_secs(30),
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 16 << 20,
        max_waiters: 1000,
        watch_every: Duration::from_secs(every),
        watch_at_most: Duration::from_hours(1),
        max_watched: 1000,
        canary: None,
    }
}

fn latest(upstream: &Arc<Fake>, store: Option<Arc<dyn Store>>, every: u64) -> Arc<Latest> {
    let upstream = Arc::clone(upstream) as _;
    Arc::new(Latest::new(upstream, store, settings(every), Handle::current()))
}

/// With a second source.
fn with_fallback(
    feed: Arc<Fake>,
    (source, upstream): (Source, Arc<dyn Upstream>),
    store: Option<Arc<dyn Store>>,
    every: u64,
) -> Arc<Latest> {
    let fallbacks = vec![Fallback { source, upstream }];
    Arc::new(Latest::with_fallbacks(
        feed,
        fallbacks,
        store,
        settings(every),
        Handle::current(),
    ))
}

fn channel(number: u32) -> ChannelId {
    format!("UC{number:021}A").parse().expect("an ID")
}

fn watch(latest: &Arc<Latest>, channels: impl IntoIterator<Item = u32>, caller: u64) -> Watch {
    let query = WatchQuery {
        channels: channels.into_iter().map(channel).collect(),
        kind: None,
        published_after: None,
        resume_tokens: Vec::new(),
    };
    let caller = Caller {
        id: caller,
        ..Caller::default()
    };
    latest.watch_for(&query, &caller).expect("room")
}

/// Six watches of a hundred channels each, of one caller.
fn six_hundred(latest: &Arc<Latest>) -> Vec<Watch> {
    (0..6)
        .map(|part| watch(latest, 100 * part..100 * (part + 1), 1))
        .collect()
}

fn polls(latest: &Latest) -> u64 {
    latest.hubs().polling.polls()
}

fn assert_nothing_is_left(latest: &Latest) {
    let polling = &latest.hubs().polling;
    assert!(polling.planner.lock().is_empty());
    assert!(polling.in_progress.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn new_watches_are_polled_at_the_rate_that_there_is_room_for_and_callers_take_turns() {
    let upstream = Arc::new(Fake::new(Some(20.0)));
    let latest = latest(&upstream, None, 60);
    let many = six_hundred(&latest);
    sleep(Duration::from_secs(5)).await;
    let few = watch(&latest, 1000..1003, 2);
    sleep(Duration::from_secs(28)).await;
    let lookups = upstream.lookups();
    assert_eq!(lookups.len(), 603, "each of them once");
    let early = lookups
        .iter()
        .filter(|(_, at)| *at < Duration::from_secs(5))
        .count();
    assert!((99..=103).contains(&early), "{early}");
    // The few did not wait for the 500 that were left.
    for (_, at) in lookups.iter().filter(|(id, _)| *id >= channel(1000)) {
        assert!(*at < Duration::from_millis(5500), "{at:?}");
    }
    drop((few, many));
    assert_nothing_is_left(&latest);
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_all_are_polled_at_once() {
    let upstream = Arc::new(Fake::new(None));
    let latest = latest(&upstream, None, 60);
    let watches = six_hundred(&latest);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(upstream.lookups().len(), 600);
    drop(watches);
    assert_nothing_is_left(&latest);
}

#[tokio::test(start_paused = true)]
async fn the_pause_of_a_failure_is_heeded() {
    let upstream = Arc::new(Fake {
        fails: Some(Failure {
            out_of_budget: false,
            error: UpstreamError::Status(503),
            retry_after: Some(Duration::from_secs(50)),
        }),
        ..Fake::new(Some(20.0))
    });
    let latest = latest(&upstream, None, 1);
    let _watch = watch(&latest, [1], 1);
    sleep(Duration::from_secs(49)).await;
    assert_eq!(polls(&latest), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(polls(&latest), 2);
}

#[tokio::test(start_paused = true)]
async fn a_poll_asks_another_source_when_that_has_budget_again() {
    let feed = Arc::new(Fake {
        fails: Some(Failure {
            out_of_budget: false,
            error: UpstreamError::Status(404),
            retry_after: Some(Duration::from_mins(5)),
        }),
        ..Fake::new(Some(20.0))
    });
    let api = Arc::new(Fake {
        budget_at: Duration::from_secs(100),
        ..Fake::new(None)
    });
    let latest = with_fallback(
        Arc::clone(&feed),
        (Source::DataApi, Arc::clone(&api) as _),
        None,
        10,
    );
    let _watch = watch(&latest, [1], 1);
    sleep(Duration::from_secs(99)).await;
    let begun = polls(&latest);
    assert!((9..=12).contains(&begun), "a poll each ten seconds: {begun}");
    assert_eq!((feed.lookups().len(), api.lookups().len()), (1, 1));
    sleep(Duration::from_secs(15)).await;
    // The real clock has not moved, so that the feed still has its backoff.
    assert_eq!(feed.lookups().len(), 1);
    assert_eq!(api.lookups().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn polls_for_which_there_is_no_budget_keep_their_interval() {
    let feed = Arc::new(Fake::new(Some(20.0)));
    let api = Arc::new(Fake {
        budget_at: Duration::MAX,
        ..Fake::new(None)
    });
    let store = Full(Duration::from_mins(2), Some(UpstreamError::Status(404)));
    let latest = with_fallback(
        Arc::clone(&feed),
        (Source::DataApi, Arc::clone(&api) as _),
        Some(Arc::new(store)),
        10,
    );
    let _watch = watch(&latest, [1], 1);
    sleep(Duration::from_secs(99)).await;
    let begun = polls(&latest);
    assert!((9..=12).contains(&begun), "a poll each ten seconds: {begun}");
    assert_eq!((feed.lookups().len(), api.lookups().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_not_admitted_is_retried_when_the_queue_says_so() {
    for error in [UpstreamError::Busy, UpstreamError::RateLimited(429)] {
        let upstream = Arc::new(Fake {
            fails: Some(Failure {
                out_of_budget: false,
                error,
                retry_after: Some(Duration::from_secs(7)),
            }),
            ..Fake::new(Some(20.0))
        });
        let latest = latest(&upstream, None, 600);
        let _watch = watch(&latest, [1], 1);
        sleep(Duration::from_secs(22)).await;
        let lookups = upstream.lookups();
        let at: Vec<_> = lookups.iter().map(|(_, at)| at.as_secs()).collect();
        assert_eq!(at, [0, 7, 14, 21]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_recent_lookup_makes_a_poll_unnecessary() {
    let upstream = Arc::new(Fake::new(Some(20.0)));
    let latest = latest(&upstream, None, 10);
    let _watch = watch(&latest, [1], 1);
    sleep(Duration::from_secs(8)).await;
    let query = Query {
        channel: channel(1),
        kind: None,
        max_age: Some(Duration::ZERO),
    };
    latest.get(query).await;
    assert_eq!(upstream.lookups().len(), 2);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(polls(&latest), 1, "its interval begins anew");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(polls(&latest), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_gets_the_cached_entry_at_once_without_a_poll() {
    let upstream = Arc::new(Fake::new(Some(20.0)));
    let latest = latest(&upstream, None, 3600);
    sleep(Duration::from_secs(1)).await;
    let query = Query {
        channel: channel(1),
        kind: None,
        max_age: None,
    };
    latest.get(query).await;
    let _watch = watch(&latest, [1], 1);
    let hub = latest.hubs().get(channel(1)).expect("it is watched");
    assert!(hub.read(|timeline| timeline.channel().is_some()));
    drop(hub);
    // The task has looked by then.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(polls(&latest), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_finds_an_entry_of_another_replica_gives_its_permit_back() {
    let upstream = Arc::new(Fake::new(Some(1.0)));
    let latest = latest(&upstream, Some(Arc::new(Full(Duration::ZERO, None))), 60);
    let watches = six_hundred(&latest);
    // At one a second it would take ten minutes.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(polls(&latest), 600);
    assert_eq!(upstream.lookups().len(), 0);
    drop(watches);
    assert_nothing_is_left(&latest);
}

#[tokio::test(start_paused = true)]
async fn a_poll_waits_for_its_outcome_when_callers_would_not() {
    let slow = |takes| {
        Arc::new(Fake {
            takes: Duration::from_secs(takes),
            ..Fake::new(None)
        })
    };
    let (feed, mirror) = (slow(11), slow(9));
    let store = Arc::new(Full(Duration::from_mins(30), None));
    let second = (Source::Mirror, Arc::clone(&mirror) as _);
    let latest = with_fallback(feed, second, Some(store), 60);
    let _watch = watch(&latest, [1], 1);
    sleep(Duration::from_secs(50)).await;
    assert_eq!((mirror.lookups().len(), polls(&latest)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn polls_end_with_the_service() {
    let upstream = Arc::new(Fake::new(Some(20.0)));
    let latest = latest(&upstream, None, 60);
    let watches = six_hundred(&latest);
    sleep(Duration::from_secs(1)).await;
    let hubs = Arc::downgrade(latest.hubs());
    drop(watches);
    // By now the task waits for a watch.
    sleep(Duration::from_secs(5)).await;
    drop(latest);
    sleep(Duration::from_secs(1)).await;
    assert!(hubs.upgrade().is_none());
    let before = upstream.lookups().len();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(upstream.lookups().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_not_admitted_is_not_a_problem_of_the_watch() {
    let upstream = Arc::new(Fake {
        fails: Some(UpstreamError::Busy.into()),
        ..Fake::new(Some(20.0))
    });
    let latest = latest(&upstream, None, 60);
    let mut watch = watch(&latest, [1], 1);
    let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    assert!(event.is_err(), "{event:?}");
}
