//! The canary decides whether 404s mean anything where other lookups do not show it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use plaque::{
    cache_entry::{self, CacheEntry},
    latest::{Latest, LookupError, Query, Reply, Settings},
    store::FeedEntry,
    upstream::{Failure, Feed, LookupRequest, Upstream, UpstreamError},
    video::{Channel, ChannelId, Kind as VideoKind},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::runtime::Handle;

use crate::{
    store_memory::Memory,
    stores::{Fake, Kind as _, OLD, channel, found, query, saved_before, settings, soon, success, summary},
};

/// The canary of these tests.
fn canary() -> ChannelId {
    channel(25)
}

/// An upstream that answers 404 for some channels, and notes which were asked for.
struct Spell {
    missing: Mutex<HashSet<ChannelId>>,
    /// How lookups of the canary fail, if they do.
    failure: Mutex<Option<UpstreamError>>,
    asked: Mutex<Vec<ChannelId>>,
}

impl Spell {
    fn over(missing: impl IntoIterator<Item = ChannelId>) -> Arc<Self> {
        Arc::new(Self {
            missing: Mutex::new(missing.into_iter().collect()),
            failure: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    fn answer(&self, number: usize, feed: Feed) -> Result<Channel, Failure> {
        self.asked.lock().push(feed.channel);
        if feed.channel == canary()
            && let Some(failure) = self.failure.lock().clone()
        {
            return Err(failure.into());
        }
        if self.missing.lock().contains(&feed.channel) {
            return Err(UpstreamError::NotFound.into());
        }
        found(number, feed)
    }

    fn set_missing(&self, channel: ChannelId, missing: bool) {
        let mut all = self.missing.lock();
        if missing {
            all.insert(channel);
        } else {
            all.remove(&channel);
        }
    }

    fn upstream(self: &Arc<Self>) -> Arc<Fake> {
        let spell = Arc::clone(self);
        Fake::open(move |number, feed| spell.answer(number, feed))
    }

    fn lookups(&self, channel: ChannelId) -> usize {
        self.asked
            .lock()
            .iter()
            .filter(|asked| **asked == channel)
            .count()
    }
}

fn with_canary() -> Settings {
    Settings {
        canary: Some(canary()),
        ..settings()
    }
}

fn plaque(upstream: Arc<Fake>, settings: Settings) -> Arc<Latest> {
    Arc::new(Latest::new(upstream, None, settings, Handle::current()))
}

/// A plaque with a store in which `known` is.
async fn replica_with_entries(
    upstream: Arc<Fake>,
    settings: Settings,
    known: &[(Feed, FeedEntry)],
) -> Arc<Latest> {
    let memory = Memory::new();
    for (feed, known) in known {
        saved_before(&memory, *feed, known).await;
    }
    let store = memory.open().await;
    Arc::new(Latest::new(upstream, Some(store), settings, Handle::current()))
}

async fn get(plaque: &Latest, channel: ChannelId) -> Reply {
    plaque.get(Query { channel, ..query() }).await
}

fn old(number: u8) -> (Feed, FeedEntry) {
    let feed = channel(number).into();
    (feed, success(feed, "kept", OLD))
}

fn is_outage(reply: &Reply) -> bool {
    let expected = LookupError::Upstream(UpstreamError::Outage);
    reply.outcome.as_ref().err() == Some(&expected)
}

fn is_not_found(reply: &Reply) -> bool {
    matches!(reply.outcome, Err(LookupError::ChannelNotFound(_)))
}

fn metrics(plaque: &Arc<Latest>) -> String {
    let mut registry = Registry::default();
    plaque.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("in memory");
    text
}

#[tokio::test]
async fn a_burst_of_unknown_channels_in_a_spell_costs_one_lookup_of_the_canary() {
    let test = async {
        let spell = Spell::over((0..26).map(channel));
        let answers = Arc::clone(&spell);
        let upstream = Fake::gated(move |number, feed| answers.answer(number, feed));
        let plaque = plaque(Arc::clone(&upstream), with_canary());
        let asking = {
            let plaque = Arc::clone(&plaque);
            let queries = (0..100).map(|number| Query {
                channel: channel(number % 20),
                ..query()
            });
            let queries: Vec<_> = queries.collect();
            tokio::spawn(async move { plaque.get_all(&queries, Duration::from_mins(10)).await })
        };
        for _of_the_channels in 0..20 {
            upstream.arrival().await;
        }
        for _of_the_channels in 0..20 {
            upstream.release();
        }
        upstream.arrival().await;
        // All flights get as far as they can while the canary's lookup is under way. There is one thread.
        for _flight in 0..100 {
            tokio::task::yield_now().await;
        }
        for _if_there_were_more in 0..100 {
            upstream.release();
        }
        for reply in asking.await.expect("no panic") {
            let reply = reply.expect("in time");
            assert!(is_outage(&reply), "{reply:?}");
            let pause = reply.retry_after.expect("when to come again");
            assert!(
                pause > Duration::ZERO && pause <= Duration::from_secs(6),
                "{pause:?}"
            );
        }
        assert_eq!(spell.lookups(canary()), 1);
        // Nor do those who come within the minute.
        assert!(is_outage(&get(&plaque, channel(21)).await));
        assert_eq!(spell.lookups(canary()), 1);
        let metrics = metrics(&plaque);
        assert!(
            metrics.contains("canary_lookups_total{outcome=\"not_found\"} 1"),
            "{metrics}"
        );
        assert!(metrics.contains("upstream_outage 1"), "{metrics}");
    };
    soon(test).await;
}

#[tokio::test]
async fn an_unknown_channel_is_not_found_if_the_canary_is_found() {
    let test = async {
        let spell = Spell::over([channel(0), channel(1)]);
        let plaque = plaque(spell.upstream(), with_canary());
        for number in [0, 1, 0] {
            let reply = get(&plaque, channel(number)).await;
            assert!(is_not_found(&reply), "{reply:?}");
        }
        assert_eq!((spell.lookups(canary()), spell.lookups(channel(0))), (1, 1));
        assert!(metrics(&plaque).contains("upstream_outage 0"));
    };
    soon(test).await;
}

#[tokio::test]
async fn a_canary_that_cannot_be_looked_up_settles_nothing() {
    let test = async {
        for error in [
            UpstreamError::Status(503),
            UpstreamError::RateLimited(429),
            UpstreamError::TimedOut(Duration::from_secs(10)),
        ] {
            let spell = Spell::over([channel(0), channel(1)]);
            *spell.failure.lock() = Some(error);
            let plaque = plaque(spell.upstream(), with_canary());
            for number in [0, 1] {
                let reply = get(&plaque, channel(number)).await;
                assert!(is_outage(&reply) && reply.retry_after.is_some(), "{reply:?}");
            }
            assert_eq!(spell.lookups(canary()), 1);
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn a_channel_that_was_just_found_makes_the_canary_superfluous() {
    let test = async {
        let spell = Spell::over([channel(0), canary()]);
        let plaque = plaque(spell.upstream(), with_canary());
        get(&plaque, channel(1)).await.outcome.expect("an answer");
        assert!(is_not_found(&get(&plaque, channel(0)).await));
        assert_eq!(spell.lookups(canary()), 0);
    };
    soon(test).await;
}

#[tokio::test]
async fn two_known_channels_that_are_missing_make_the_canary_superfluous() {
    let test = async {
        let spell = Spell::over((0..3).map(channel));
        let plaque = replica_with_entries(spell.upstream(), with_canary(), &[old(1), old(2)]).await;
        for number in [1, 2] {
            assert_eq!(summary(&get(&plaque, channel(number)).await), "kept (stale)");
        }
        // The first one was in doubt.
        assert_eq!(spell.lookups(canary()), 1);
        let found_after = get(&plaque, channel(0)).await;
        assert!(is_not_found(&found_after), "{found_after:?}");
    };
    soon(test).await;
}

#[tokio::test]
async fn one_known_channel_that_goes_missing_is_decided_by_the_canary() {
    let test = async {
        for canary_is_missing in [true, false] {
            let spell = Spell::over([channel(1), channel(0)]);
            spell.set_missing(canary(), canary_is_missing);
            let plaque = replica_with_entries(spell.upstream(), with_canary(), &[old(1)]).await;
            assert_eq!(summary(&get(&plaque, channel(1)).await), "kept (stale)");
            assert_eq!(spell.lookups(canary()), 1);
            let unknown = get(&plaque, channel(0)).await;
            assert_eq!(is_outage(&unknown), canary_is_missing, "{unknown:?}");
            assert_eq!(is_not_found(&unknown), !canary_is_missing, "{unknown:?}");
            assert_eq!(spell.lookups(canary()), 1);
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn a_known_channel_ends_as_not_found_when_its_answer_is_too_old() {
    let test = async {
        let week = Duration::from_hours(8 * 24);
        for (canary_is_missing, has_canary) in [(true, true), (false, true), (false, false)] {
            let spell = Spell::over([channel(1)]);
            spell.set_missing(canary(), canary_is_missing);
            let settings = Settings {
                canary: has_canary.then(canary),
                ..settings()
            };
            let feed = channel(1).into();
            let known = [(feed, success(feed, "kept", week))];
            let plaque = replica_with_entries(spell.upstream(), settings, &known).await;
            // At once, and as it is remembered.
            for _ in 0..2 {
                let reply = get(&plaque, channel(1)).await;
                assert_eq!(is_outage(&reply), canary_is_missing, "{reply:?}");
                assert_eq!(is_not_found(&reply), !canary_is_missing, "{reply:?}");
            }
            assert_eq!(spell.lookups(channel(1)), 1);
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn the_canary_itself_can_be_asked_for() {
    let test = async {
        let spell = Spell::over([canary(), channel(0)]);
        let plaque = plaque(spell.upstream(), with_canary());
        assert!(is_outage(&get(&plaque, canary()).await));
        // Its own lookup was one of the canary.
        assert!(is_outage(&get(&plaque, channel(0)).await));
        assert_eq!(spell.lookups(canary()), 1);

        let spell = Spell::over([channel(0)]);
        let plaque = plaque_with_canary(&spell);
        get(&plaque, canary()).await.outcome.expect("an answer");
        assert!(is_not_found(&get(&plaque, channel(0)).await));
        assert_eq!(spell.lookups(canary()), 1);
    };
    soon(test).await;
}

fn plaque_with_canary(spell: &Arc<Spell>) -> Arc<Latest> {
    plaque(spell.upstream(), with_canary())
}

#[tokio::test]
async fn a_missing_feed_of_a_kind_means_no_uploads_except_in_an_outage() {
    let test = async {
        for canary_is_missing in [true, false] {
            let spell = Spell::over([]);
            spell.set_missing(canary(), canary_is_missing);
            let lists = Arc::clone(&spell);
            let upstream = Fake::open(move |number, feed| match feed.kind {
                Some(_) => Err(UpstreamError::NotFound.into()),
                None => lists.answer(number, feed),
            });
            // Its own feed was found, but not just now.
            let feed = channel(0).into();
            let known = [(feed, success(feed, "kept", crate::stores::STALE))];
            let plaque = replica_with_entries(upstream, with_canary(), &known).await;
            let shorts = Query {
                channel: channel(0),
                kind: Some(VideoKind::Short),
                max_age: Some(OLD),
            };
            let reply = plaque.get(shorts).await;
            assert_eq!(is_outage(&reply), canary_is_missing, "{reply:?}");
            let none = matches!(reply.outcome, Err(LookupError::NoUploads { .. }));
            assert_eq!(none, !canary_is_missing, "{reply:?}");
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn an_outage_ends_when_a_channel_is_found() {
    let test = async {
        let spell = Spell::over([channel(0), channel(1), canary()]);
        let plaque = plaque_with_canary(&spell);
        assert!(is_outage(&get(&plaque, channel(0)).await));
        get(&plaque, channel(2))
            .await
            .outcome
            .expect("the first to be found");
        assert!(is_not_found(&get(&plaque, channel(1)).await));
        assert!(metrics(&plaque).contains("upstream_outage 0"));
        assert_eq!(spell.lookups(canary()), 1);
    };
    soon(test).await;
}

#[tokio::test]
async fn a_404_cached_before_the_outage_counts_as_part_of_it() {
    let test = async {
        let unknown: Feed = channel(0).into();
        let now = plaque::clock::now();
        let failure = cache_entry::Failure {
            out_of_budget: false,
            error: UpstreamError::NotFound,
            at: now,
            retry_at: now + Duration::from_mins(10),
            streak: 1,
        };
        let known = [(unknown, CacheEntry::failed(None, failure)), old(1)];
        let spell = Spell::over([channel(1), canary()]);
        let plaque = replica_with_entries(spell.upstream(), with_canary(), &known).await;
        assert!(is_not_found(&get(&plaque, channel(0)).await));
        assert_eq!(summary(&get(&plaque, channel(1)).await), "kept (stale)");
        assert!(is_outage(&get(&plaque, channel(0)).await));
        assert_eq!(spell.lookups(channel(0)), 0, "it is remembered");
    };
    soon(test).await;
}

/// What a lookup may take, and what it takes of those that are slow.
const TIME_LIMIT: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(9);

/// Answers slowly by the clock of tokio, which its test pauses, and 404.
struct Slow;

impl Upstream for Slow {
    fn look_up(&self, _feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async {
            tokio::time::sleep(SLOW).await;
            Err(UpstreamError::NotFound.into())
        })
    }

    fn time_limit(&self) -> Duration {
        TIME_LIMIT
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_has_time_for_the_canary() {
    let plaque = Latest::new(Arc::new(Slow), None, with_canary(), Handle::current());
    let began = tokio::time::Instant::now();
    assert!(is_outage(&get(&plaque, channel(0)).await));
    assert_eq!(began.elapsed().as_secs(), (SLOW * 2).as_secs());
}
