//! Whatever fails, at whichever source: the reply is the right answer or the right error, in time, and never an older one than before.

mod rules;

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
    latest::{FeedEntry, Latest, Reply},
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
    time::{Instant, sleep},
};

use self::rules::{
    Behavior::{
        self, Behind, Current, Empty, Hangs, Malformed, NoSuchChannel, NotFound, Overloaded, Panics, Refuses,
        Unavailable, Unreachable,
    },
    Outcome, is_failing, reply, rules,
};
use crate::{
    store_memory::Memory,
    stores::{Kind as _, LONG, anew, settings, upload},
};

/// What a lookup of one source may take.
const LIMIT: Duration = Duration::from_secs(10);

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
    async fn new(case: &Case) -> Self {
        let scripted = |(source, _): &(Source, usize)| {
            Arc::new(Scripted {
                source: *source,
                now: Mutex::new((Current, 0)),
                lookups: AtomicUsize::new(0),
            })
        };
        let store: Option<Arc<dyn Store>> = if case.has_store {
            Some(Arc::new(Patient(Memory::new().open().await)))
        } else {
            None
        };
        Self {
            sources: case.sources.iter().map(scripted).collect(),
            store,
        }
    }

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

    /// Tells the sources what to do.
    fn arrange(
        &self,
        step: Step,
        case: &Case,
        all: usize,
        is_suspicious: bool,
        is_unlisted: bool,
    ) -> Vec<(Source, Behavior)> {
        let behavior = |(source, index): &(Source, usize)| {
            let behavior = match step.behaviors[*index] {
                // It may lag for longer than a case takes.
                behavior @ (Behind | Empty) if is_unlisted && *source == Source::Feed => behavior,
                // The second suspect snapshot would be believed, and the answer older.
                Behind | Empty if is_suspicious && *source != Source::Mirror => Current,
                NoSuchChannel if *source != Source::DataApi => NotFound,
                behavior => behavior,
            };
            (*source, behavior)
        };
        let behaviors: Vec<_> = case.sources.iter().map(behavior).collect();
        for (scripted, (_, behavior)) in self.sources.iter().zip(&behaviors) {
            *scripted.now.lock() = (*behavior, all);
        }
        behaviors
    }

    fn lookups(&self) -> usize {
        let lookups = self.sources.iter().map(|scripted| scripted.lookups.load(SeqCst));
        lookups.sum()
    }
}

async fn run(case: Case) {
    let world = World::new(&case).await;
    let mut latest = world.start();
    let (mut all, mut known) = (1, None);
    let mut is_suspicious = false;
    // Only other sources than the feed have shown the newest upload that is known.
    let mut is_unlisted = false;
    // The reply, if the pause of the last failure has to be over first.
    let mut pauses: Option<String> = None;
    let mut failing = vec![false; case.sources.len()];
    for &step in &case.steps {
        all += usize::from(step.uploads);
        if step.restarts && case.has_store {
            latest.close_store(LONG).await;
            latest = world.start();
            pauses = None;
            failing.fill(false);
        }
        let behaviors = world.arrange(step, &case, all, is_suspicious, is_unlisted);
        let (before, began) = (world.lookups(), Instant::now());
        let got = replied(&latest.get(anew()).await);
        let took = began.elapsed();
        while latest.flights() > 0 {
            // For the caller's patience may be shorter.
            sleep(Duration::from_millis(100)).await;
        }
        let asked = world.lookups() - before;
        assert_eq!((latest.flights(), latest.waiting()), (0, 0));
        if let Some(expected) = &pauses {
            assert_eq!((&got, asked), (expected, 0));
            continue;
        }
        let (outcome, should_ask) = rules(&behaviors, all, known, is_unlisted);
        let hanging = behaviors[..should_ask]
            .iter()
            .filter(|(_, behavior)| *behavior == Hangs);
        let lasts = hanging.map(|_| LIMIT).sum::<Duration>();
        // Beyond that, the lookup goes on without its caller.
        let patience = LIMIT + Duration::from_secs(2);
        let gave_up = known.is_some() && behaviors.len() > 1 && lasts > patience;
        let expected = if gave_up {
            reply(&Outcome::Failed(UpstreamError::Panicked), known)
        } else {
            reply(&outcome, known)
        };
        assert_eq!((&got, asked), (&expected, should_ask), "{behaviors:?}");
        let asked = &behaviors[..asked];
        let waited = if gave_up { patience } else { lasts };
        let range = waited..waited + Duration::from_secs(1);
        assert!(range.contains(&took), "{took:?} {behaviors:?}");

        for ((source, behavior), failing) in asked.iter().zip(&mut failing) {
            *failing = is_failing(*source, *behavior, all, known, *failing);
        }
        let health = latest.sources();
        let shown: Vec<_> = health
            .iter()
            .map(|health| health.failing_since.is_some())
            .collect();
        assert_eq!(shown, failing, "{behaviors:?}");
        match outcome {
            Outcome::Found(shown, source) => {
                assert!(known <= Some(shown), "an older answer");
                is_unlisted = match source {
                    Source::Feed => false,
                    Source::Mirror | Source::DataApi if known < Some(shown) => shown > 0,
                    Source::Mirror | Source::DataApi => is_unlisted,
                };
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
