//! More than one source: which of them is asked, whose answer counts, and names of channels.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
};
use plaque::{
    latest::{Event, Latest, LookupError, Query, Watch, WatchQuery},
    resolver::{ResolveError, Resolver},
    store::Store,
    upstream::{Caller, Failure, Fallback, Feed, NameSource, Upstream, UpstreamError},
    video::{Channel, ChannelName, Kind as VideoKind, MAX_UPLOADS, ResolvedChannel, Source, Upload},
    youtube::Pace,
};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::store_memory::Memory;
use crate::stores::{Fake, Kind as _, anew, channel, fails, feed, found, query, settings, soon, upload};

/// A first source, and others.
fn latest(first: &Arc<Fake>, others: &[(Source, &Arc<Fake>)]) -> Arc<Latest> {
    let fallbacks = others.iter().map(|(source, fake)| Fallback {
        source: *source,
        upstream: Arc::clone(*fake) as Arc<dyn Upstream>,
    });
    let first = Arc::clone(first) as Arc<dyn Upstream>;
    let latest = Latest::with_fallbacks(first, fallbacks.collect(), None, settings(), Handle::current());
    Arc::new(latest)
}

pub fn answers(error: Option<UpstreamError>) -> impl Fn(usize, Feed) -> Result<Channel, Failure> {
    move |number, feed| match &error {
        None => found(number, feed),
        Some(error) => Err(error.clone().into()),
    }
}

async fn source(latest: &Latest) -> Result<Source, LookupError> {
    let answer = latest.get(query()).await.outcome?;
    Ok(answer.channel().source())
}

#[tokio::test]
async fn after_a_failure_of_the_feed_the_first_source_that_answers_counts() {
    let test = async {
        for error in [
            UpstreamError::Status(503),
            UpstreamError::RateLimited(429),
            UpstreamError::Unreachable("refused".into()),
            UpstreamError::TimedOut(Duration::from_secs(10)),
            UpstreamError::Malformed("no XML".into()),
        ] {
            for mirror_works in [true, false] {
                let feed = Fake::open(answers(Some(error.clone())));
                let mirror = Fake::open(answers((!mirror_works).then_some(UpstreamError::Status(500))));
                let api = Fake::open(found);
                let latest = latest(&feed, &[(Source::Mirror, &mirror), (Source::DataApi, &api)]);
                let expected = if mirror_works {
                    Source::Mirror
                } else {
                    Source::DataApi
                };
                assert_eq!(source(&latest).await, Ok(expected), "{error}");
                let lookups = [&feed, &mirror, &api].map(|fake| fake.lookups());
                assert_eq!(lookups, [1, 1, usize::from(!mirror_works)], "{error}");
                // It is cached like any answer.
                assert_eq!(source(&latest).await, Ok(expected));
                assert_eq!(feed.lookups(), 1);
            }
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn other_sources_are_not_asked_about_what_the_feed_says_or_what_this_server_keeps_back() {
    let test = async {
        for (error, expected) in [
            (
                UpstreamError::NotFound,
                LookupError::ChannelNotFound(feed().channel),
            ),
            (UpstreamError::Busy, LookupError::Upstream(UpstreamError::Busy)),
        ] {
            let (feed, mirror) = (Fake::open(answers(Some(error))), Fake::open(found));
            let latest = latest(&feed, &[(Source::Mirror, &mirror)]);
            assert_eq!(source(&latest).await, Err(expected));
            assert_eq!((feed.lookups(), mirror.lookups()), (1, 0));
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn without_a_canary_the_api_settles_what_a_404_means() {
    let test = async {
        let (feed, api) = (
            Fake::open(answers(Some(UpstreamError::NotFound))),
            Fake::open(found),
        );
        let latest = latest(&feed, &[(Source::DataApi, &api)]);
        assert_eq!(source(&latest).await, Ok(Source::DataApi));
    };
    soon(test).await;
}

#[tokio::test]
async fn the_api_knows_for_certain_that_there_is_no_such_channel() {
    let test = async {
        let feed_fails = Fake::open(answers(Some(UpstreamError::Status(503))));
        let api = Fake::open(answers(Some(UpstreamError::NoSuchChannel)));
        let latest = latest(&feed_fails, &[(Source::DataApi, &api)]);
        let expected = LookupError::ChannelNotFound(feed().channel);
        assert_eq!(source(&latest).await, Err(expected.clone()));
        assert_eq!(source(&latest).await, Err(expected));
        assert_eq!(api.lookups(), 1, "it is remembered");
    };
    soon(test).await;
}

#[tokio::test]
async fn if_every_source_fails_the_error_is_that_of_the_feed_and_an_old_answer_is_given() {
    let test = async {
        let feed = Fake::open(|number, feed| match number {
            1 => found(number, feed),
            _ => fails(UpstreamError::Status(503))(number, feed),
        });
        let api = Fake::open(fails(UpstreamError::RateLimited(403)));
        let latest = latest(&feed, &[(Source::DataApi, &api)]);
        assert_eq!(source(&latest).await, Ok(Source::Feed));
        let reply = latest.get(anew()).await;
        let answer = reply.outcome.expect("the old answer");
        assert_eq!(
            (answer.channel().title(), answer.channel().source()),
            ("lookup 1", Source::Feed)
        );
        let unknown = Query {
            channel: channel(1),
            ..query()
        };
        let error = latest.get(unknown).await.outcome.expect_err("nothing is known");
        assert_eq!(error, LookupError::Upstream(UpstreamError::Status(503)));
    };
    soon(test).await;
}

#[tokio::test]
async fn a_short_remains_one_if_a_mirror_does_not_say_so() {
    let test = async {
        let first = Fake::open(|number, feed| match number {
            1 => {
                let uploads = vec![upload(1, VideoKind::Short), upload(2, VideoKind::Video)];
                Ok(Channel::new(feed.channel, "a channel", uploads))
            }
            _ => fails(UpstreamError::Status(503))(number, feed),
        });
        let mirror = Fake::open(|_, feed| found(3, feed));
        let latest = latest(&first, &[(Source::Mirror, &mirror)]);
        latest.get(query()).await.outcome.expect("found");
        let answer = latest.get(anew()).await.outcome.expect("the mirror's");
        let kinds: Vec<_> = answer.channel().uploads().map(|upload| upload.kind()).collect();
        assert_eq!(kinds, [VideoKind::Video, VideoKind::Video, VideoKind::Short]);
    };
    soon(test).await;
}

fn next(watch: &mut Watch) -> Option<String> {
    // What a lookup has brought was published before it ended.
    match watch
        .next()
        .now_or_never()?
        .expect("it goes on")
        .expect("no error")
        .event
    {
        Event::Upload { channel, upload, .. } => {
            Some(channel.upload(upload).expect("it has it").title().to_owned())
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_switch_to_another_source_and_back_sends_each_upload_once() {
    let test = async {
        // Three lookups of the feed bring 1, 3 and 4 uploads; between them it fails three times, and the API shows what there is.
        let feed_shows = [Some(1), None, None, None, Some(3), Some(3), Some(4)];
        let feed_of = Fake::open(move |number, feed| match feed_shows[number - 1] {
            Some(uploads) => found(uploads, feed),
            None => Err(UpstreamError::Status(503).into()),
        });
        let api = Fake::open(|number, feed| found([2, 2, 3][number - 1], feed));
        let latest = latest(&feed_of, &[(Source::DataApi, &api)]);
        latest.get(query()).await.outcome.expect("found");
        let mut watch = watch(&latest);
        assert_eq!(next(&mut watch).as_deref(), Some("Upload 1"));
        for expected in [
            Some("Upload 2"),
            None,
            Some("Upload 3"),
            None,
            None,
            Some("Upload 4"),
        ] {
            let before = feed_of.lookups();
            while feed_of.lookups() == before {
                latest.get(anew()).await.outcome.expect("found");
            }
            assert_eq!(next(&mut watch).as_deref(), expected);
        }
        assert_eq!(api.lookups(), 3);
    };
    soon(test).await;
}

fn watch(latest: &Arc<Latest>) -> Watch {
    let query = WatchQuery {
        channels: vec![feed().channel],
        kind: None,
        published_after: None,
        resume_tokens: vec![],
    };
    latest.watch(&query).expect("room for one more")
}

/// Looks up until the outcome of one more lookup of `source` is known.
async fn look_up_at(source: &Fake, latest: &Latest) {
    let before = source.lookups();
    while source.lookups() == before {
        latest.get(anew()).await.outcome.expect("found");
    }
}

/// The uploads of these numbers, with a date or without.
fn showing(numbers: &[usize], feed: Feed, dated: bool) -> Channel {
    let uploads = numbers.iter().map(|number| {
        let upload = upload(*number, VideoKind::Video);
        let published = upload.published.filter(|_| dated);
        Upload { published, ..upload }
    });
    Channel::new(feed.channel, "a channel", uploads.collect()).with_entries(MAX_UPLOADS)
}

#[tokio::test]
async fn uploads_without_a_date_are_sent_only_if_they_stand_before_known_ones() {
    let test = async {
        for feed_works_first in [true, false] {
            let first = Fake::open(move |number, feed| match number {
                1 if feed_works_first => Ok(showing(&[9, 8, 7], feed, true)),
                _ => Err(UpstreamError::Status(503).into()),
            });
            let shown = [&[9, 8, 7][..], &[9, 8, 3, 2], &[10, 9, 3]];
            let mirror = Fake::open(move |number, feed| Ok(showing(shown[(number - 1).min(2)], feed, false)));
            let latest = latest(&first, &[(Source::Mirror, &mirror)]);
            latest.get(query()).await.outcome.expect("found");
            let mut watch = watch(&latest);
            assert_eq!(next(&mut watch).as_deref(), Some("Upload 9"));
            let mut sent = vec![];
            for _ in 0..4 {
                look_up_at(&mirror, &latest).await;
                sent.extend(next(&mut watch));
            }
            // Where others have dates, an upload without one cannot be told to be newer.
            let expected: &[&str] = if feed_works_first { &[] } else { &["Upload 10"] };
            assert_eq!(sent, expected, "feed first: {feed_works_first}");
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn what_was_deleted_does_not_return_by_a_mirror_that_is_behind() {
    let test = async {
        let first = Fake::open(|number, feed| match number {
            1 => Ok(showing(&[9, 8, 7], feed, true)),
            // The second time in a row, that is believed.
            2 | 3 => Ok(showing(&[8, 7, 6], feed, true)),
            _ => Err(UpstreamError::Status(503).into()),
        });
        let mirror = Fake::open(|_, feed| Ok(showing(&[9, 8, 7], feed, true)));
        let latest = latest(&first, &[(Source::Mirror, &mirror)]);
        latest.get(query()).await.outcome.expect("found");
        for _ in 0..2 {
            look_up_at(&first, &latest).await;
        }
        for _ in 0..2 {
            look_up_at(&mirror, &latest).await;
            let answer = latest.get(query()).await.outcome.expect("found");
            assert_eq!(answer.channel().source(), Source::Mirror);
            let newest = answer.channel().upload(0).expect("an upload");
            assert_eq!(newest.title(), "Upload 8");
        }
    };
    soon(test).await;
}

/// A source of names that counts, and waits at a gate.
struct Names {
    answer: Option<Result<(), UpstreamError>>,
    gate: Semaphore,
    lookups: AtomicUsize,
}

impl Names {
    fn new(answer: Option<Result<(), UpstreamError>>, open: bool) -> Arc<Self> {
        Arc::new(Self {
            answer,
            gate: Semaphore::new(if open { Semaphore::MAX_PERMITS } else { 0 }),
            lookups: AtomicUsize::new(0),
        })
    }
}

impl NameSource for Names {
    fn resolve<'a>(
        &'a self,
        _name: &'a ChannelName,
        _caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move {
            self.lookups.fetch_add(1, SeqCst);
            self.gate.acquire().await.expect("never closed").forget();
            let resolved = self.answer.clone()?.map(|()| ResolvedChannel {
                id: channel(1),
                title: "a title".into(),
            });
            Some(resolved.map_err(Failure::from))
        })
    }

    fn host(&self) -> Option<&str> {
        Some("names.example")
    }
}

fn resolver(sources: &[&Arc<Names>]) -> Resolver {
    resolver_with(sources, None, Pace::default())
}

fn resolver_with(sources: &[&Arc<Names>], store: Option<Arc<dyn Store>>, pace: Pace) -> Resolver {
    let sources = sources
        .iter()
        .map(|names| Arc::clone(*names) as Arc<dyn NameSource>);
    Resolver::new(sources.collect(), store, pace, 1000, Handle::current())
}

fn name(text: &str) -> ChannelName {
    text.parse().expect(text)
}

#[tokio::test]
async fn callers_for_one_name_share_one_lookup_and_it_is_cached() {
    let test = async {
        let names = Names::new(Some(Ok(())), false);
        let resolver = resolver(&[&names]);
        let mut callers: Vec<_> = ["@Somebody", "somebody", "youtube.com/@SOMEBODY"]
            .map(|text| resolver.resolve(name(text), Caller::default()).boxed())
            .into();
        for caller in &mut callers {
            assert!(caller.now_or_never().is_none());
        }
        names.gate.add_permits(1);
        for resolved in join_all(callers).await {
            assert_eq!(resolved.expect("it exists").id, channel(1));
        }
        let again = resolver.resolve(name("@somebody"), Caller::default()).await;
        assert_eq!(again.expect("it is cached").title.as_ref(), "a title");
        assert_eq!(names.lookups.load(SeqCst), 1);
        // What needs no lookup gets none.
        let id = resolver
            .resolve(name(channel(2).as_str()), Caller::default())
            .await;
        assert_eq!(id.expect("it is an ID").id, channel(2));
        assert_eq!(names.lookups.load(SeqCst), 1);
    };
    soon(test).await;
}

#[tokio::test]
async fn the_first_source_that_can_tell_resolves_a_name() {
    let test = async {
        let refused = Some(Err(UpstreamError::RateLimited(403)));
        for (first, expected, asked) in [
            // It cannot resolve such names; it fails; it knows; it knows that there is none.
            (None, Ok(()), 1),
            (refused.clone(), Ok(()), 1),
            (Some(Ok(())), Ok(()), 0),
            (Some(Err(UpstreamError::NoSuchChannel)), Err(()), 0),
            (Some(Err(UpstreamError::NotFound)), Err(()), 0),
        ] {
            let (first, second) = (Names::new(first, true), Names::new(Some(Ok(())), true));
            let resolver = resolver(&[&first, &second]);
            for _ in 0..3 {
                match resolver.resolve(name("@somebody"), Caller::default()).await {
                    Ok(found) => assert_eq!((found.id, expected), (channel(1), Ok(()))),
                    Err(error) => {
                        assert_eq!(error, ResolveError::NotFound(name("@somebody")));
                        assert_eq!(expected, Err(()));
                    }
                }
            }
            let lookups = [&first, &second].map(|names| names.lookups.load(SeqCst));
            assert_eq!(lookups, [1, asked]);
        }
        // None can tell: the failure is the last one's.
        let (first, second) = (Names::new(refused, true), Names::new(None, true));
        let error = resolver(&[&first, &second])
            .resolve(name("@somebody"), Caller::default())
            .await
            .expect_err("refused");
        let failure = UpstreamError::RateLimited(403).into();
        assert_eq!(
            error,
            ResolveError::Upstream(failure, Some("names.example".into()))
        );
        let message = error.to_string();
        assert!(
            message.starts_with("names are looked up at names.example: the upstream refuses"),
            "{message}"
        );
    };
    soon(test).await;
}

#[tokio::test]
async fn a_name_is_not_asked_again_after_a_restart_nor_by_another_replica() {
    let test = async {
        let (memory, names) = (Memory::new(), Names::new(Some(Ok(())), true));
        for _ in 0..3 {
            let resolver = resolver_with(&[&names], Some(memory.open().await), Pace::default());
            let answer = resolver.resolve(name("@somebody"), Caller::default()).await;
            assert_eq!(answer.expect("it exists").id, channel(1));
        }
        assert_eq!(names.lookups.load(SeqCst), 1);
        // What nobody has is not kept.
        let nobody = Names::new(Some(Err(UpstreamError::NotFound)), true);
        for asked in 1..3 {
            let resolver = resolver_with(&[&nobody], Some(memory.open().await), Pace::default());
            let answer = resolver.resolve(name("@nobody"), Caller::default()).await;
            assert_eq!(answer, Err(ResolveError::NotFound(name("@nobody"))));
            assert_eq!(nobody.lookups.load(SeqCst), asked);
        }
    };
    soon(test).await;
}

/// One caller makes names up, at half of the limit and up to ten times as many. Another one asks for a name every five seconds.
#[tokio::test(start_paused = true)]
async fn made_up_names_keep_their_rate_and_keep_nobody_out() {
    const RATE: f64 = 4.0;
    let seconds = 60;
    for load in [0.5, 1.0, 2.0, 10.0] {
        let names = Names::new(Some(Err(UpstreamError::NotFound)), true);
        let pace = Pace {
            rate: Some(RATE * 4.0),
            ..Pace::default()
        };
        let resolver = resolver_with(&[&names], None, pace);
        let of = |id| Caller {
            id,
            ..Caller::default()
        };
        let abuser = async {
            let mut calls = vec![];
            let pause = Duration::from_secs_f64((RATE * load).recip());
            for number in 0_u32.. {
                if pause * number > Duration::from_secs(seconds) {
                    break;
                }
                let (resolver, name) = (resolver.clone(), name(&format!("@made-up-{number}")));
                calls.push(tokio::spawn(async move { resolver.resolve(name, of(1)).await }));
                tokio::time::sleep(pause).await;
            }
            join_all(calls).await
        };
        let modest = async {
            for number in 0..seconds / 5 {
                let name = name(&format!("@modest-{number}"));
                let answer = resolver.resolve(name.clone(), of(2)).await;
                assert_eq!(answer, Err(ResolveError::NotFound(name)), "it is asked");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        let (outcomes, ()) = tokio::join!(abuser, modest);
        // A burst of a second, and what is queued at the end.
        let asked = names.lookups.load(SeqCst);
        assert!(asked <= 4 * (60 + 1 + 5), "{asked} at {load}");
        let mut refused = 0;
        for outcome in outcomes {
            if let Err(ResolveError::Upstream(failure, _)) = outcome.expect("no panic") {
                assert_eq!(failure.error, UpstreamError::Busy);
                assert!(failure.retry_after.is_some_and(|pause| !pause.is_zero()));
                refused += 1;
            }
        }
        assert_eq!(refused > 0, load > 1.0, "{refused} at {load}");
    }
}

#[tokio::test]
async fn an_api_that_refuses_is_like_none_for_what_a_404_means() {
    let test = async {
        let cannot_tell = [
            // Google refuses the key; there is no unit; it is broken.
            UpstreamError::RateLimited(403),
            UpstreamError::Busy,
            UpstreamError::Status(503),
        ];
        for error in cannot_tell {
            // Without a canary, a 404 of a channel that was never found is believed.
            let missing = Fake::open(answers(Some(UpstreamError::NotFound)));
            let api = Fake::open(answers(Some(error)));
            let latest = latest(&missing, &[(Source::DataApi, &api)]);
            let expected = LookupError::ChannelNotFound(feed().channel);
            assert_eq!(source(&latest).await, Err(expected));
            assert_eq!((missing.lookups(), api.lookups()), (1, 1));
        }
    };
    soon(test).await;
}
