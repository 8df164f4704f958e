//! Answers do not go back: an older or empty snapshot is not believed at once, and the newest upload of a kind is kept when others push it out of
//! the channel's own feed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, StreamExt as _};
use plaque::{
    cache_entry::{self, CacheEntry},
    latest::{CacheStatus, LookupError, Query, Reply, WatchEvent, WatchQuery},
    store::{Lease, Store as _},
    upstream::{Failure, Feed, UpstreamError},
    video::{Channel, Kind as VideoKind, Upload},
};

use crate::{
    store_memory::Memory,
    stores::{
        FRESH, Fake, Kind as _, OLD, Replica, anew, fails, feed, good_channel, query, saved_before, soon,
        summary, upload,
    },
};

type Found = Result<Channel, Failure>;

/// The channel with uploads of these days, each with so many views.
fn channel(title: &str, uploads: &[(usize, VideoKind)], views: u64) -> Channel {
    let uploads = uploads.iter().map(|(number, kind)| Upload {
        views: Some(views),
        ..upload(*number, *kind)
    });
    Channel::new(feed().channel, title, uploads.collect())
}

fn videos(numbers: std::ops::RangeInclusive<usize>) -> Vec<(usize, VideoKind)> {
    numbers.map(|number| (number, VideoKind::Video)).collect()
}

fn shorts(numbers: std::ops::RangeInclusive<usize>) -> Vec<(usize, VideoKind)> {
    numbers.map(|number| (number, VideoKind::Short)).collect()
}

fn newest(title: &str) -> Channel {
    channel(title, &videos(2..=16), 20)
}

/// A replica, and the store that it has.
struct Plaque {
    memory: Memory,
    replica: Replica,
}

impl Plaque {
    async fn start(upstream: &Arc<Fake>) -> Self {
        let memory = Memory::new();
        let replica = Replica::start(&memory, upstream).await;
        Self { memory, replica }
    }

    /// With what is kept, and nothing in memory.
    async fn restart(self, upstream: &Arc<Fake>) -> Self {
        self.replica.stop().await;
        let replica = Replica::start(&self.memory, upstream).await;
        Self { replica, ..self }
    }

    async fn get(&self, query: Query) -> Reply {
        self.replica.get(query).await
    }

    /// The reply to a caller that accepts no cached answer.
    async fn latest(&self) -> String {
        summary(&self.get(anew()).await)
    }

    /// The same, when the pause of the last failure is over: another replica says that it is.
    async fn reply_after_the_pause(&self, upstream: &Fake) -> String {
        let before = upstream.lookups();
        let other = self.memory.open().await;
        let kept = other.load(feed()).await.expect("kept");
        let failure = cache_entry::Failure {
            at: plaque::clock::now(),
            retry_at: plaque::clock::now(),
            ..kept.failure.expect("it has failed")
        };
        let over = CacheEntry::failed(kept.success, failure);
        other.save(feed(), &over, Lease::Uncoordinated).await;
        loop {
            let reply = self.latest().await;
            if upstream.lookups() > before {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_empty_or_an_older_snapshot_is_believed_the_second_time() {
    let empty = || channel("empty", &[], 0);
    let older = || channel("older", &videos(1..=15), 10);
    let others: [fn() -> Channel; 2] = [empty, older];
    for other in others {
        let test = async {
            let upstream = Fake::open(move |number, _| -> Found {
                Ok(if number == 1 { newest("newest") } else { other() })
            });
            let plaque = Plaque::start(&upstream).await;
            // The lookup of the second is suspect. Those who come after it cost no other.
            for _ in 0..5 {
                assert_eq!(plaque.latest().await, "newest");
            }
            assert_eq!(upstream.lookups(), 2);
            let expected = match other().title() {
                "empty" => format!("channel {} has no upload", feed().channel),
                title => title.to_owned(),
            };
            // The next one confirms it. Then it is the good answer, which the same two lookups later is no doubt about.
            assert_eq!(plaque.reply_after_the_pause(&upstream).await, expected);
            for number in 4..6 {
                assert_eq!(plaque.latest().await, expected);
                assert_eq!(upstream.lookups(), number);
            }
        };
        soon(test).await;
    }
}

#[tokio::test]
async fn a_plausible_snapshot_between_clears_the_doubt() {
    let test = async {
        let upstream = Fake::open(|number, _| -> Found {
            Ok(match number {
                2 | 4 => channel("empty", &[], 0),
                number => newest(&format!("lookup {number}")),
            })
        });
        let plaque = Plaque::start(&upstream).await;
        for expected in ["lookup 1", "lookup 1"] {
            assert_eq!(plaque.latest().await, expected);
        }
        assert_eq!(plaque.reply_after_the_pause(&upstream).await, "lookup 3");
        assert_eq!(plaque.latest().await, "lookup 3", "the fourth is suspect");
        assert_eq!(plaque.reply_after_the_pause(&upstream).await, "lookup 5");
        assert_eq!(upstream.lookups(), 5);
    };
    soon(test).await;
}

#[tokio::test]
async fn a_doubt_is_remembered_by_a_store() {
    let test = async {
        let upstream = Fake::open(|number, _| -> Found {
            Ok(match number {
                1 => newest("newest"),
                _ => channel("older", &videos(1..=15), 10),
            })
        });
        let plaque = Plaque::start(&upstream).await;
        for expected in ["newest", "newest"] {
            assert_eq!(plaque.latest().await, expected);
        }
        // After a restart, or in another replica: the pause goes on, and the next lookup is the second.
        let plaque = plaque.restart(&upstream).await;
        assert_eq!(plaque.latest().await, "newest");
        assert_eq!(upstream.lookups(), 2);
        assert_eq!(plaque.reply_after_the_pause(&upstream).await, "older");
        assert_eq!(upstream.lookups(), 3);
    };
    soon(test).await;
}

#[tokio::test]
async fn callers_see_the_age_of_the_answer_and_watches_see_no_problem() {
    let test = async {
        let upstream = Fake::open(|number, _| -> Found {
            Ok(match number {
                1 => newest("newest"),
                2 => channel("empty", &[], 0),
                _ => channel("newer", &videos(3..=17), 30),
            })
        });
        let plaque = Plaque::start(&upstream).await;
        let watch = plaque.replica.latest.watch(&WatchQuery {
            channels: vec![feed().channel],
            kind: None,
            published_after: None,
            resume_tokens: vec![],
        });
        let mut watch = watch.expect("room for one more");
        let title = |event: Option<Result<WatchEvent, LookupError>>| {
            let event = event.expect("it goes on").expect("no error").event;
            event.video().expect("an upload").title().to_owned()
        };
        assert_eq!(title(watch.next().await), "Upload 16");
        let reply = plaque.get(anew()).await;
        let status = match reply.cache_status {
            CacheStatus::Forwarded { status, .. } => status,
            CacheStatus::Hit { .. } => panic!("{reply:?}"),
        };
        assert_eq!(status, None, "the upstream did answer 200");
        let fetched = reply.outcome.expect("an answer").fetched;
        assert!(fetched <= SystemTime::now());
        // Pending events are returned at once.
        assert!(watch.next().now_or_never().is_none(), "a problem, or an upload");
        assert_eq!(plaque.reply_after_the_pause(&upstream).await, "newer");
        assert_eq!(title(watch.next().await), "Upload 17");
    };
    soon(test).await;
}

#[tokio::test]
async fn without_an_answer_that_can_be_given_the_doubt_is_an_error() {
    let test = async {
        let upstream = Fake::open(|_, _| -> Found { Ok(channel("empty", &[], 0)) });
        let memory = Memory::new();
        let week = Duration::from_hours(8 * 24);
        let ages = good_channel(newest("newest"), week);
        saved_before(&memory, feed(), &ages).await;
        let replica = Replica::start(&memory, &upstream).await;
        let reply = replica.get(query()).await;
        assert_eq!(
            reply.outcome.expect_err("in doubt"),
            LookupError::Upstream(UpstreamError::SuspectSnapshot)
        );
        let pause = reply.retry_after.expect("some time");
        assert!(
            pause > Duration::from_secs(3) && pause <= Duration::from_secs(6),
            "{pause:?}"
        );
    };
    soon(test).await;
}

/// A channel with one video under 14 Shorts, which the 15th pushes out. What its lists say is up to `list`.
fn pushed_out(
    list: impl Fn(VideoKind) -> Found + Send + Sync + 'static,
) -> impl Fn(usize, Feed) -> Found + Send + Sync + 'static {
    move |number, feed| match feed.kind {
        Some(kind) => list(kind),
        None if number == 1 => Ok(channel("before", &[videos(1..=1), shorts(2..=15)].concat(), 1)),
        None => Ok(channel("after", &shorts(2..=16), 1)),
    }
}

fn of(kind: VideoKind) -> Query {
    Query {
        kind: Some(kind),
        ..query()
    }
}

/// The title of the newest upload of a kind.
async fn title(plaque: &Plaque, query: Query) -> String {
    let reply = plaque.get(query).await;
    let answer = reply.outcome.expect("an answer");
    answer.video().title().to_owned()
}

#[tokio::test]
async fn the_newest_of_a_kind_survives_being_pushed_out() {
    for error in [UpstreamError::NotFound, UpstreamError::Status(503)] {
        let test = async {
            let failing = fails(error.clone());
            let list = move |kind| {
                let kind = Some(kind);
                failing(0, Feed { kind, ..feed() })
            };
            let upstream = Fake::open(pushed_out(list));
            let plaque = Plaque::start(&upstream).await;
            assert_eq!(title(&plaque, of(VideoKind::Video)).await, "Upload 1");
            let was = plaque.get(query()).await.outcome.expect("an answer").fetched;
            let pushed = plaque.get(anew()).await.outcome.expect("an answer");
            assert_eq!(pushed.video().title(), "Upload 16");
            // The store has it before anybody has asked for it.
            let list = Feed {
                kind: Some(VideoKind::Video),
                ..feed()
            };
            let stored = plaque.replica.store.load(list).await.expect("kept");
            let stored = stored.success.expect("good");
            assert_eq!((stored.value.len(), stored.time), (1, was));
            let newer = Query {
                max_age: Some(Duration::ZERO),
                ..of(VideoKind::Video)
            };
            // Thrice after the change.
            for _ in 0..3 {
                let answer = plaque.get(newer).await.outcome.expect("an answer");
                assert_eq!(answer.video().title(), "Upload 1");
                assert_eq!(answer.fetched, was, "as old as it is");
            }
            let plaque = plaque.restart(&upstream).await;
            assert_eq!(title(&plaque, of(VideoKind::Video)).await, "Upload 1");
            let shown = plaque.get(of(VideoKind::Short)).await.outcome.expect("an answer");
            assert_eq!(shown.video().title(), "Upload 16");
        };
        soon(test).await;
    }
}

#[tokio::test]
async fn uploads_pushed_out_of_the_feed_become_stale_and_then_expire() {
    let test = async {
        for (age, outcome) in [
            (Duration::from_hours(24), Some("Upload 1")),
            (Duration::from_hours(8 * 24), None),
        ] {
            let memory = Memory::new();
            let before = channel("before", &[videos(1..=1), shorts(2..=15)].concat(), 1);
            let known = good_channel(before, age);
            saved_before(&memory, feed(), &known).await;
            let upstream = Fake::open(|number, feed| match feed.kind {
                Some(_) => Err(UpstreamError::NotFound.into()),
                None => pushed_out(|_| unreachable!())(number + 1, feed),
            });
            let replica = Replica::start(&memory, &upstream).await;
            let reply = replica.get(of(VideoKind::Video)).await;
            match outcome {
                Some(title) => {
                    let answer = reply.outcome.expect("an answer");
                    assert_eq!((answer.video().title(), answer.stale), (title, true));
                }
                None => assert!(
                    matches!(reply.outcome, Err(LookupError::NoUploads { .. })),
                    "{reply:?}"
                ),
            }
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn a_newer_answer_of_the_kind_s_own_feed_is_not_replaced() {
    let test = async {
        let list = Feed {
            kind: Some(VideoKind::Video),
            ..feed()
        };
        let memory = Memory::new();
        let before = channel("before", &[videos(1..=1), shorts(2..=15)].concat(), 1);
        saved_before(&memory, feed(), &good_channel(before, OLD)).await;
        saved_before(
            &memory,
            list,
            &good_channel(channel("list", &videos(1..=1), 1), FRESH),
        )
        .await;
        // The video is pushed out at once.
        let after = pushed_out(|kind| panic!("no {kind} was to be looked up"));
        let upstream = Fake::open(move |_, feed| after(2, feed));
        let replica = Replica::start(&memory, &upstream).await;
        for _ in 0..3 {
            assert_eq!(summary(&replica.get(of(VideoKind::Video)).await), "list");
            assert_eq!(upstream.lookups(), 1);
        }
        let kept = replica.store.load(list).await.expect("kept").success;
        assert_eq!(kept.expect("good").value.title(), "list");
    };
    soon(test).await;
}

#[tokio::test]
async fn a_channel_that_was_emptied_has_no_uploads() {
    let test = async {
        let upstream = Fake::open(|number, feed| match (feed.kind, number) {
            (Some(_), _) => Err(UpstreamError::NotFound.into()),
            (None, 1) => Ok(channel("before", &videos(1..=1), 1)),
            (None, _) => Ok(channel("emptied", &[], 0)),
        });
        let plaque = Plaque::start(&upstream).await;
        assert_eq!(title(&plaque, of(VideoKind::Video)).await, "Upload 1");
        assert_eq!(plaque.latest().await, "before");
        let reply = plaque.reply_after_the_pause(&upstream).await;
        assert!(reply.ends_with("has no upload"), "{reply}");
        let error = plaque.get(of(VideoKind::Video)).await.outcome.expect_err("none");
        assert!(matches!(error, LookupError::NoUploads { .. }), "{error}");
    };
    soon(test).await;
}
