//! The use case: what did this channel upload last?
//!
//! Decides whether what is known will do ([`Policy`]), and asks upstream through the [`Coalescer`] if it will not.

mod batch;
mod canary;
mod cursor;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hub;
mod insight;
mod lookup;
mod outage;
mod policy;
mod polling;
mod remote_updates;
mod reply;
mod resume;
mod snapshot;
mod source;
mod timeline;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coalesce::{Coalescer, FlightError, Overloaded, Retention};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{Id, Span, field::Empty};

pub use self::{
    error::LookupError,
    insight::Demand,
    policy::{Policy, jittered},
    reply::{Answer, Made, Query, Reply, Why},
    resume::{InvalidResumeToken, ResumeToken},
    watch::{Event, Watch, WatchEvent, WatchQuery},
};
use self::{lookup::Question, policy::Verdict, polling::Poller, reply::select_upload, source::Source};
pub use crate::store::Known;
use crate::store::Store;
use crate::{
    cache_entry::{Failure, Success},
    clock,
    upstream::{Caller, Feed, Purpose, Upstream, UpstreamError},
    video::{Channel, ChannelId},
};

/// What a cached channel needs beside [`Known`] and the [`Channel`]: moka's key, hash-table slot, queue node and frequency
/// counters, the headers of the two `Arc`s, and what the allocator leaves unused between them. Measured as 410 to 420 bytes at
/// 100,000 channels (`benches/memory.rs`).
const ENTRY_OVERHEAD: usize = 420;

/// A flight may take this much longer than the upstream's own limit, whose error says more than the flight's.
const FLIGHT_GRACE: Duration = Duration::from_secs(1);

/// The part of the cache for failures of channels that were never found.
const MINOR_PART: u64 = 16;

/// When a caller for whom there is no place to wait should come again: most lookups are over within a second.
pub const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// How a [`Latest`] goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When what is known will do.
    pub policy: Policy,
    /// What the cache may hold, in bytes of memory. A sixteenth is for failures of channels that were never found.
    pub cache_bytes: u64,
    /// Callers who may wait for lookups at once.
    pub max_waiters: usize,
    /// How often a watched channel is polled while there is room for all.
    pub watch_every: Duration,
    /// How often at least, unless there is no room even for that; no less than `watch_every`.
    pub watch_at_most: Duration,
    /// Channels that may be watched, counted once for each watch.
    pub max_watched: usize,
    /// A channel that exists: it is looked up where nobody can tell whether a 404 means anything. `None`: then the channels that are
    /// known have to tell.
    pub canary: Option<ChannelId>,
}

/// Answers what channels uploaded last.
pub struct Latest {
    source: Arc<Source>,
    policy: Policy,
    coalescer: Coalescer<Feed, Arc<Known>>,
    /// Polls the channels that are watched. Begins with the first watch.
    poller: Poller,
    runtime: Handle,
    /// Ends all watches.
    closing: CancellationToken,
}

/// A lookup that was needed: why, and whether another caller had started it.
#[derive(Clone, Copy)]
struct Trip(Why, bool);

impl Latest {
    /// Answers from `upstream`, with lookups that run on `runtime`.
    ///
    /// What is kept in a `store` is asked for before the upstream is, and what the upstream says is kept there.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        store: Option<Arc<dyn Store>>,
        settings: Settings,
        runtime: Handle,
    ) -> Self {
        // Another's lookup may be waited for, and then made all the same; and its 404 may have to be settled by the canary.
        let lookups = 1 + u32::from(store.is_some()) + u32::from(settings.canary.is_some());
        let flight = upstream.time_limit() * lookups + FLIGHT_GRACE;
        let minor = settings.cache_bytes / MINOR_PART;
        let coalescer = Coalescer::<Feed, Arc<Known>>::builder(settings.cache_bytes - minor)
            .low_priority_capacity(minor)
            .weigher(|_feed, known| weight(known))
            .retention(|_feed, known| retention(known))
            .time_to_live(settings.policy.keep_for())
            // The lookup itself ends before, which is a failure of its feed.
            .flight_timeout(flight + FLIGHT_GRACE)
            .max_waiters(settings.max_waiters)
            .runtime(runtime.clone())
            .make_span_with(flight_span)
            .build();
        Self {
            source: Arc::new(Source::new(upstream, store, coalescer.clone(), &settings, flight)),
            policy: settings.policy,
            coalescer,
            poller: Poller::default(),
            runtime,
            closing: CancellationToken::new(),
        }
    }

    /// Answers `query`, for nobody in particular: see [`Self::get_for`].
    pub async fn get(&self, query: Query) -> Reply {
        self.get_for(query, &Caller::default).await
    }

    /// Answers `query`. May be dropped at any time: a lookup that it started goes on. Who asks is looked at if a lookup is needed, and
    /// not before.
    ///
    /// Uploads of one kind are looked for in the channel's own feed first, which shows its newest of every kind. Only if none of
    /// those is of the kind, the feed of the kind is asked.
    pub async fn get_for(&self, query: Query, caller: &impl Fn() -> Caller) -> Reply {
        let query = Query {
            max_age: self.policy.granted(query.max_age),
            ..query
        };
        let reply = self
            .answer(query, query.channel.into(), Purpose::Awaited, caller)
            .await;
        match (&reply.outcome, query.kind) {
            (Err(LookupError::NoUploads { .. }), Some(_)) => {
                let feed = Feed {
                    channel: query.channel,
                    kind: query.kind,
                };
                self.answer(query, feed, Purpose::Awaited, caller).await
            }
            _ => reply,
        }
    }

    /// Answers `query` from `feed`.
    async fn answer(
        &self,
        query: Query,
        feed: Feed,
        purpose: Purpose,
        caller: &impl Fn() -> Caller,
    ) -> Reply {
        let asked = clock::now();
        let mut known = self.coalescer.get(&feed).await;
        let mut now = asked;
        let mut trip = None;
        // Comes round once for a lookup. Again only if it joined a flight that found an answer new enough for whoever started
        // it, but not for this query.
        loop {
            let verdict = self.policy.judge(known.as_deref(), query.max_age, asked, now);
            if let Some(known) = &known
                && purpose == Purpose::Awaited
                && !matches!(verdict, Verdict::LookUp(_))
            {
                known.hits.increment();
            }
            match verdict {
                Verdict::Answer { good, refresh } => {
                    if refresh {
                        let question = Question {
                            feed,
                            max_age: query.max_age,
                            purpose: Purpose::Refresh,
                            // Nobody waits.
                            caller: Caller {
                                deadline: None,
                                ..caller()
                            },
                        };
                        self.coalescer.refresh(feed, self.source.lookup(question, now));
                    }
                    let made = made(
                        trip.filter(|_| good.at >= asked),
                        self.policy.ttl(good, now),
                        None,
                    );
                    return self.keep(good, query, asked, now, made);
                }
                Verdict::Fallback(good, failed) => {
                    let trip = trip.filter(|_| failed.at >= asked);
                    let made = made(trip, self.policy.ttl(good, now), failed.error.http_status());
                    return self.keep(good, query, asked, now, made);
                }
                Verdict::Refuse(failed) => {
                    return self.refuse(failed, feed, trip.filter(|_| failed.at >= asked), now);
                }
                Verdict::LookUp(why) => {
                    let question = Question {
                        feed,
                        max_age: query.max_age,
                        purpose,
                        caller: caller(),
                    };
                    let lookup = self.source.lookup(question, asked);
                    let error = match self.coalescer.join(feed, lookup) {
                        Ok(waiter) => {
                            let collapsed = waiter.collapsed();
                            trip.get_or_insert(Trip(why, collapsed));
                            if collapsed {
                                self.source.joined(&question, known.as_deref());
                            }
                            match waiter.outcome().await {
                                Ok(outcome) => {
                                    known = Some(outcome);
                                    now = clock::now();
                                    continue;
                                }
                                Err(error) => map_flight_error(error),
                            }
                        }
                        Err(Overloaded(waiters)) => LookupError::Overloaded(waiters),
                    };
                    let trip = trip.unwrap_or(Trip(why, false));
                    return self.without_lookup(
                        known.as_deref(),
                        query,
                        asked,
                        made(Some(trip), 0, None),
                        error,
                    );
                }
            }
        }
    }

    /// Keeps what is still on its way to the store, for at most `limit`.
    pub async fn close_store(&self, limit: Duration) {
        if let Some(store) = self.source.store() {
            store.close(limit).await;
        }
    }

    /// Ends all watches, and all that are begun from now on.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The number of lookups in progress.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.coalescer.flight_count()
    }

    /// The number of callers who wait for lookups.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.coalescer.waiter_count()
    }

    /// The answer that is kept. It is stale if it is older than fresh, and was not looked up since the caller came.
    fn keep(
        &self,
        good: &Success<Arc<Channel>>,
        query: Query,
        asked: Instant,
        now: Instant,
        made: Made,
    ) -> Reply {
        let (age, stale) = if good.at < asked {
            (good.age(now), good.age(asked) > self.policy.fresh_for)
        } else {
            (Duration::ZERO, false)
        };
        Reply {
            outcome: select_upload(good, query, age, stale),
            made,
            retry_after: None,
        }
    }

    fn refuse(&self, failed: &Failure<UpstreamError>, feed: Feed, trip: Option<Trip>, now: Instant) -> Reply {
        let left = failed.retry_at.saturating_duration_since(now);
        let error = failed.error.clone();
        Reply {
            outcome: Err(self.source.refusal_without_answer(error, feed, now)),
            made: made(trip, seconds(left), failed.error.http_status()),
            retry_after: Some(left),
        }
    }

    /// There was no lookup to be had, or it told nothing: the old answer, if there is one, or `error`.
    fn without_lookup(
        &self,
        known: Option<&Known>,
        query: Query,
        asked: Instant,
        made: Made,
        error: LookupError,
    ) -> Reply {
        match known.and_then(|known| known.good.as_ref()) {
            Some(good) if good.age(asked) <= self.policy.usable_for() => {
                self.keep(good, query, asked, clock::now(), made)
            }
            _ => Reply {
                retry_after: matches!(error, LookupError::Overloaded(_)).then_some(OVERLOAD_PAUSE),
                outcome: Err(error),
                made,
            },
        }
    }
}

fn made(trip: Option<Trip>, ttl: i64, status: Option<u16>) -> Made {
    match trip {
        Some(Trip(why, collapsed)) => Made::Forwarded {
            why,
            collapsed,
            status,
        },
        None => Made::Hit { ttl },
    }
}

/// The span of a flight, as a part of what its first caller does. Made here, so that filters for plaque's spans include it.
fn flight_span(parent: Option<Id>) -> Span {
    tracing::debug_span!(
        parent: parent,
        "flight",
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

fn map_flight_error(error: FlightError) -> LookupError {
    match error {
        FlightError::Panicked => LookupError::Upstream(UpstreamError::Panicked),
        FlightError::TimedOut(limit) => LookupError::Upstream(UpstreamError::TimedOut(limit)),
        FlightError::Aborted => LookupError::ShuttingDown,
    }
}

/// Whether the cache keeps what a lookup brought, and where. What happens to lookups on this side says nothing about the channel; and
/// anybody can make up channels that are not found.
fn retention(known: &Known) -> Retention {
    match (&known.good, &known.failed) {
        (_, Some(failed)) if failed.error.is_local_condition() => Retention::Discard,
        (Some(_), _) => Retention::Keep,
        (None, _) => Retention::LowPriority,
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// The bytes of memory that the cache spends on a channel of which this is `known`.
#[must_use]
pub fn weight(known: &Known) -> u32 {
    let channel = known.good.as_ref().map_or(0, |good| good.value.weight());
    let error = known.failed.as_ref().map_or(0, |failed| failed.error.weight());
    u32::try_from(ENTRY_OVERHEAD + size_of::<Known>() + channel + error).unwrap_or(u32::MAX)
}
