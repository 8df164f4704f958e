//! Whatever fails, at whichever source: the reply is the right answer or the right error, in time, and never an older one than before.

use std::{
    future::pending,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{BoxStream, StreamExt as _, empty},
};
use parking_lot::Mutex;
use plaque::{
    latest::{FeedEntry, Latest, LookupError, Reply},
    store::{Lease, RemoteUpdate, Store},
    upstream::{Failure, Fallback, Feed, Lookup, LookupRequest, Upstream, UpstreamError},
    video::{Channel, Kind as VideoKind, Source, Upload},
};
use prometheus_client::registry::Registry;
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};
use tokio::{
    runtime::{self, Handle},
    time::Instant,
};

use crate::{
    store_memory::Memory,
    stores::{Kind as _, LONG, anew, feed, settings, upload},
};

/// What a lookup of one source may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What a source does with a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    /// Shows all uploads.
    Current,
    /// Shows all but the newest, and what was known of them before it.
    Behind,
    /// Shows no upload.
    Empty,
    NotFound,
    /// Only the Data API says so for certain.
    NoSuchChannel,
    Refuses,
    Unavailable,
    Unreachable,
    Malformed,
    Overloaded,
    Hangs,
    Panics,
}

use Behavior::{
    Behind, Current, Empty, Hangs, Malformed, NoSuchChannel, NotFound, Overloaded, Panics, Refuses,
    Unavailable, Unreachable,
};

impl Behavior {
    /// How many uploads it shows of `all`.
    fn shows(self, all: usize) -> Option<usize> {
        match self {
            Current => Some(all),
            Behind => Some((all - 1).max(1)),
            Empty => Some(0),
            _ => None,
        }
    }

    /// The error of a lookup that shows none.
    fn error(self) -> UpstreamError {
        match self {
            Current | Behind | Empty => unreachable!("no error"),
            NotFound => UpstreamError::NotFound,
            NoSuchChannel => UpstreamError::NoSuchChannel,
            Refuses => UpstreamError::RateLimited(429),
            Unavailable => UpstreamError::Status(503),
            Unreachable => UpstreamError::Unreachable("refused".into()),
            Malformed => UpstreamError::Malformed("no XML".into()),
            Overloaded => UpstreamError::Busy,
            Hangs => UpstreamError::TimedOut(LIMIT),
            Panics => UpstreamError::Panicked,
        }
    }
}

/// A source that does as it is told, and counts lookups.
struct Scripted {
    source: Source,
    /// What it does, and how many uploads there are.
    now: Mutex<(Behavior, usize)>,
    lookups: AtomicUsize,
}

impl Upstream for Scripted {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> Lookup<'_> {
        Box::pin(async move {
            self.lookups.fetch_add(1, SeqCst);
            let (behavior, all) = *self.now.lock();
            match (behavior, behavior.shows(all)) {
                (_, Some(shown)) => Ok(snapshot(feed, shown, self.source)),
                (Hangs, _) => pending().await,
                // Without the message of a panic.
                (Panics, _) => resume_unwind(Box::new("a bug")),
                _ => Err(Failure::from(behavior.error())),
            }
        })
    }

    fn time_limit(&self) -> Duration {
        LIMIT
    }
}

/// The first uploads. Only the feed has counts, which grow with each upload.
fn snapshot(feed: Feed, uploads: usize, source: Source) -> Channel {
    let views = (source == Source::Feed).then_some(100 * uploads as u64);
    let uploads = (1..=uploads).map(|number| Upload {
        views,
        ..upload(number, VideoKind::Video)
    });
    Channel::new(feed.channel, "A channel", uploads.collect())
}

/// A store in which the pauses of failures are over whenever something is loaded.
struct Patient(Arc<dyn Store>);

impl Store for Patient {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        Box::pin(async move {
            let mut entry = self.0.load(feed).await?;
            if let Some(failure) = &mut entry.failure {
                failure.retry_at = failure.at;
            }
            Some(entry)
        })
    }

    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease> {
        self.0.lease(feed)
    }

    fn save<'a>(&'a self, feed: Feed, known: &'a FeedEntry, lease: Lease) -> BoxFuture<'a, bool> {
        self.0.save(feed, known, lease)
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        empty().boxed()
    }

    fn register(&self, _registry: &mut Registry) {}

    fn close(&self, limit: Duration) -> BoxFuture<'_, ()> {
        self.0.close(limit)
    }
}

/// One lookup, before which the channel may get an upload, and plaque may be restarted.
#[derive(Clone, Copy, Debug)]
struct Step {
    uploads: bool,
    restarts: bool,
    behaviors: [Behavior; 4],
}

#[derive(Clone, Debug)]
struct Case {
    has_store: bool,
    /// The feed, up to two mirrors, and maybe the Data API: which of four behaviors is whose.
    sources: Vec<(Source, usize)>,
    steps: Vec<Step>,
}

fn behavior() -> impl Strategy<Value = Behavior> {
    prop::sample::select(vec![
        Current,
        Current,
        Behind,
        Empty,
        NotFound,
        NoSuchChannel,
        Refuses,
        Unavailable,
        Unreachable,
        Malformed,
        Overloaded,
        Hangs,
        Panics,
    ])
}

fn case() -> impl Strategy<Value = Case> {
    let step = (any::<bool>(), any::<bool>(), [(); 4].map(|()| behavior()));
    let step = step.prop_map(|(uploads, restarts, behaviors)| Step {
        uploads,
        restarts,
        behaviors,
    });
    let steps = prop::collection::vec(step, 1..10);
    (any::<bool>(), 0..=2_usize, any::<bool>(), steps).prop_map(|(has_store, mirrors, has_api, steps)| {
        let mut sources = vec![(Source::Feed, 0)];
        sources.extend((1..=mirrors).map(|number| (Source::Mirror, number)));
        sources.extend(has_api.then_some((Source::DataApi, 3)));
        Case {
            has_store,
            sources,
            steps,
        }
    })
}

/// How a lookup ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// So many uploads are believed, of that source.
    Found(usize, Source),
    Failed(UpstreamError),
}

/// The rules, written down once more: what a lookup by `behaviors` ends with, and how many of them are asked, if `known` uploads were believed
/// before.
fn rules(behaviors: &[(Source, Behavior)], all: usize, known: Option<usize>) -> (Outcome, usize) {
    // An older snapshot is not believed at first.
    let believed = |shown, source| match known {
        Some(known) if shown < known => Outcome::Failed(UpstreamError::SuspectSnapshot),
        _ => Outcome::Found(shown, source),
    };
    let (_, first) = behaviors[0];
    if let Some(shown) = first.shows(all) {
        return (believed(shown, Source::Feed), 1);
    }
    let has_api = behaviors.iter().any(|(source, _)| *source == Source::DataApi);
    let error = match first.error() {
        // One channel is no spell.
        UpstreamError::NotFound if known.is_some() => UpstreamError::Status(404),
        error => error,
    };
    let helps = match error {
        UpstreamError::Busy => false,
        UpstreamError::NotFound => has_api,
        _ => true,
    };
    if !helps {
        return (Outcome::Failed(error), 1);
    }
    for (index, (source, behavior)) in behaviors.iter().enumerate().skip(1) {
        let outcome = match (source, behavior, behavior.shows(all)) {
            (Source::Mirror, _, Some(shown)) if shown > 0 && Some(shown) >= known => {
                Outcome::Found(shown, Source::Mirror)
            }
            (Source::DataApi, _, Some(shown)) => believed(shown, Source::DataApi),
            (Source::DataApi, NoSuchChannel, _) => Outcome::Failed(UpstreamError::NoSuchChannel),
            _ => continue,
        };
        return (outcome, index + 1);
    }
    (Outcome::Failed(error), behaviors.len())
}

/// The reply after `outcome`: the answer, or the last one with a mark.
fn reply(outcome: &Outcome, known: Option<usize>) -> String {
    let none = LookupError::NoUploads {
        channel: feed().channel,
        kind: None,
    };
    match (outcome, known) {
        (Outcome::Found(0, _), _) | (Outcome::Failed(_), Some(0)) => none.to_string(),
        (Outcome::Found(shown, source), _) => format!("{shown} of {}", source.name()),
        (Outcome::Failed(_), Some(known)) => format!("{known}, stale"),
        (Outcome::Failed(UpstreamError::NotFound | UpstreamError::NoSuchChannel), None) => {
            LookupError::ChannelNotFound(feed().channel).to_string()
        }
        (Outcome::Failed(error), None) => error.to_string(),
    }
}

fn replied(reply: &Reply) -> String {
    match &reply.outcome {
        Ok(answer) if answer.stale => format!("{}, stale", answer.channel().len()),
        Ok(answer) => format!(
            "{} of {}",
            answer.channel().len(),
            answer.channel().source().name()
        ),
        Err(error) => error.to_string(),
    }
}

struct World {
    sources: Vec<Arc<Scripted>>,
    store: Option<Arc<dyn Store>>,
}

impl World {
    fn start(&self) -> Latest {
        let fallbacks = self.sources.iter().skip(1).map(|scripted| Fallback {
            source: scripted.source,
            upstream: Arc::clone(scripted) as Arc<dyn Upstream>,
        });
        let first = Arc::clone(&self.sources[0]) as Arc<dyn Upstream>;
        let mut settings = settings();
        // Whatever was not looked up for a query is marked as stale.
        settings.policy.fresh_for = Duration::ZERO;
        let store = self.store.clone();
        Latest::with_fallbacks(first, fallbacks.collect(), store, settings, Handle::current())
    }

    fn lookups(&self) -> usize {
        self.sources
            .iter()
            .map(|scripted| scripted.lookups.load(SeqCst))
            .sum()
    }
}

async fn run(case: Case) {
    let Case {
        has_store,
        sources,
        steps,
    } = case;
    let store: Option<Arc<dyn Store>> = if has_store {
        Some(Arc::new(Patient(Memory::new().open().await)))
    } else {
        None
    };
    let scripted = |(source, _): &(Source, usize)| {
        Arc::new(Scripted {
            source: *source,
            now: Mutex::new((Current, 0)),
            lookups: AtomicUsize::new(0),
        })
    };
    let world = World {
        sources: sources.iter().map(scripted).collect(),
        store,
    };
    let mut latest = world.start();
    let (mut all, mut known) = (1, None);
    // A second suspect snapshot would be believed, and the answer older.
    let mut is_suspicious = false;
    // The reply, if the last failure has to be over first.
    let mut pauses: Option<String> = None;
    let mut failing = vec![false; sources.len()];
    for Step {
        uploads,
        restarts,
        behaviors,
    } in steps
    {
        all += usize::from(uploads);
        if restarts && has_store {
            latest.close_store(LONG).await;
            latest = world.start();
            pauses = None;
            failing.fill(false);
        }
        let behaviors: Vec<_> = sources
            .iter()
            .map(|(source, index)| {
                let behavior = match behaviors[*index] {
                    Behind | Empty if is_suspicious && *source != Source::Mirror => Current,
                    NoSuchChannel if *source != Source::DataApi => NotFound,
                    behavior => behavior,
                };
                (*source, behavior)
            })
            .collect();
        for (scripted, (_, behavior)) in world.sources.iter().zip(&behaviors) {
            *scripted.now.lock() = (*behavior, all);
        }
        let (before, began) = (world.lookups(), Instant::now());
        let got = replied(&latest.get(anew()).await);
        let (asked, took) = (world.lookups() - before, began.elapsed());
        assert_eq!((latest.flights(), latest.waiting()), (0, 0));
        if let Some(expected) = &pauses {
            assert_eq!((&got, asked), (expected, 0));
            continue;
        }
        let (outcome, should_ask) = rules(&behaviors, all, known);
        assert_eq!(
            (got.as_str(), asked),
            (reply(&outcome, known).as_str(), should_ask),
            "{behaviors:?}"
        );
        let hang = behaviors[..asked]
            .iter()
            .filter(|(_, behavior)| *behavior == Hangs)
            .count();
        let limit = LIMIT * u32::try_from(hang).expect("few");
        assert!(
            took >= limit && took < limit + Duration::from_secs(1),
            "{took:?} {behaviors:?}"
        );

        for (index, (source, behavior)) in behaviors[..asked].iter().enumerate() {
            failing[index] = match (source, behavior) {
                (_, Current) | (Source::DataApi, NoSuchChannel) => false,
                (Source::Feed | Source::DataApi, Behind | Empty) => false,
                (Source::Mirror, Behind) if behavior.shows(all) >= known => false,
                // They say nothing of the source.
                (Source::Mirror, Behind) | (_, Overloaded) | (Source::Feed, NotFound) => failing[index],
                (_, NotFound) if known.is_none() => failing[index],
                _ => true,
            };
        }
        let health = latest.sources();
        let shown: Vec<_> = health
            .iter()
            .map(|health| (health.source, health.failing_since.is_some()))
            .collect();
        let expected: Vec<_> = sources
            .iter()
            .map(|(source, _)| *source)
            .zip(failing.clone())
            .collect();
        assert_eq!(shown, expected, "{behaviors:?}");

        match outcome {
            Outcome::Found(shown, _) => {
                assert!(known <= Some(shown), "an older answer");
                (known, is_suspicious) = (Some(shown), false);
            }
            Outcome::Failed(error) => {
                is_suspicious |= error == UpstreamError::SuspectSnapshot;
                pauses = (!error.is_local_condition()).then_some(got);
            }
        }
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20),
        ..Config::default()
    })]

    #[test]
    fn any_failures_end_in_the_right_answer_or_error_in_time(case in case()) {
        let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(run(case));
    }
}
