//! The use case: what did this channel upload last?
//!
//! [`Policy`] decides whether the cache can answer. If not, the caller joins a flight of the [`Coalescer`], which the `Fetcher` carries
//! out: store first, then upstream.
//!
//! # Which of two is newer
//!
//! Four values order events, each for a purpose that the others cannot serve:
//!
//! - `arrived_at`: when the caller arrived. What was looked up since then is as new as it gets for this caller, whatever its age, so one
//!   caller never waits for two lookups.
//! - `now`: what ages and pauses are measured at. Read again after each wait, so it is later than `arrived_at` for a caller that waited.
//!   Both are readings of [`clock::now`], and so are the times in a [`FeedEntry`], by which two entries of one feed are merged.
//! - The *sequence* of a flight or write (in [`coalesce`]) orders writers of a cache entry in this process by when they started. Times
//!   of results cannot: a flight that started earlier may end later.
//! - The *lease token* (in [`store`](crate::store)) orders writers of a store's entry across replicas, which share no clock.

mod batch;
mod canary;
mod cursor;
mod error;
mod fallback;
mod fetcher;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hang;
mod health;
mod hub;
mod list;
mod lookup;
mod metrics;
mod newest;
mod outage;
mod policy;
mod poller;
mod polling;
mod remote_updates;
mod reply;
mod resume;
mod snapshot;
mod timeline;
mod watch;

use std::{sync::Arc, time::Duration};

use coalesce::{Coalescer, FlightError, Overloaded, Retention};
use tokio::{runtime::Handle, time::timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Id, Span, field::Empty};

pub use self::{
    error::LookupError,
    list::{InvalidPageToken, ListError, Listed, PageToken},
    policy::{Policy, jittered},
    reply::{Answer, CacheStatus, MissReason, Query, Reply},
    resume::{InvalidResumeToken, ResumeToken},
    watch::{Event, Watch, WatchEvent, WatchQuery},
};
use self::{
    fallback::Fallbacks,
    fetcher::{Fetcher, FlightRequest},
    hub::Hubs,
    list::OlderUploads,
    policy::FromCache,
    poller::Poller,
    reply::{Attempt, Miss},
};
pub use crate::store::FeedEntry;
use crate::store::Store;
use crate::{
    clock,
    upstream::{Caller, Fallback, Feed, Purpose, SourceHealth, UploadPages, Upstream, UpstreamError},
    video::ChannelId,
};

/// What a cached channel takes in addition to [`FeedEntry`] and the [`Channel`](crate::video::Channel): moka's key, hash-table slot, queue node and frequency
/// counters, the headers of the two `Arc`s, and what the allocator leaves unused between them. Measured as 410 to 420 bytes at
/// 100,000 channels (`benches/memory.rs`).
const ENTRY_OVERHEAD: usize = 420;

/// How much longer than the upstream's own limit a flight may take. The upstream's error is more specific than the flight's.
const FLIGHT_GRACE: Duration = Duration::from_secs(1);

/// The part of the cache (one sixteenth) that is for failures of channels that were never found.
const LOW_PRIORITY_PART: u64 = 16;

/// When a caller that was refused for overload should retry: most lookups end within a second.
pub const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// The settings of a [`Latest`].
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long cached entries can be used, and when they are revalidated.
    pub policy: Policy,
    /// The capacity of the cache, in bytes of memory. A sixteenth of it is for failures of channels that were never found.
    pub cache_bytes: u64,
    /// How many callers may wait for lookups at one time.
    pub max_waiters: usize,
    /// The interval between polls of a watched channel, as long as the source has room for all polls.
    pub watch_every: Duration,
    /// The longest interval between polls, unless the source has no room even for that; at least `watch_every`.
    pub watch_at_most: Duration,
    /// How many channels may be watched, counted once for each watch.
    pub max_watched: usize,
    /// A channel that is known to exist. It is looked up to tell whether 404s mean anything, where other channels do not show it.
    /// With `None`, only channels that were found before count.
    pub canary: Option<ChannelId>,
}

/// Answers what channels uploaded last.
pub struct Latest {
    fetcher: Arc<Fetcher>,
    policy: Policy,
    coalescer: Coalescer<Feed, Arc<FeedEntry>>,
    /// Older uploads than the entries have.
    pages: Option<OlderUploads>,
    /// Polls watched channels. Started by the first watch.
    poller: Poller,
    runtime: Handle,
    /// Ends all watches.
    closing: CancellationToken,
}

impl Latest {
    /// Answers from `upstream`, with flights that run on `runtime`. See [`Self::with_fallbacks`].
    pub fn new(
        upstream: Arc<dyn Upstream>,
        store: Option<Arc<dyn Store>>,
        settings: Settings,
        runtime: Handle,
    ) -> Self {
        Self::with_fallbacks(upstream, vec![], store, settings, runtime)
    }

    /// Answers from `upstream`, or from the first of `fallbacks` that answers where that fails, with flights that run on `runtime`.
    ///
    /// A `store` is read before each request to the upstream, and each result is saved there.
    pub fn with_fallbacks(
        upstream: Arc<dyn Upstream>,
        fallbacks: Vec<Fallback>,
        store: Option<Arc<dyn Store>>,
        settings: Settings,
        runtime: Handle,
    ) -> Self {
        // A flight may wait for another replica's lookup and then make its own, and the canary may have to be looked up as well.
        let lookups = 1 + u32::from(store.is_some()) + u32::from(settings.canary.is_some());
        let fallbacks = Fallbacks::new(fallbacks);
        let flight = upstream.time_limit() * lookups + fallbacks.time_limit() + FLIGHT_GRACE;
        let low_priority = settings.cache_bytes / LOW_PRIORITY_PART;
        let coalescer = Coalescer::<Feed, Arc<FeedEntry>>::builder(settings.cache_bytes - low_priority)
            .low_priority_capacity(low_priority)
            .weigher(|_feed, known| weight(known))
            .retention(|_feed, known| retention(known))
            .time_to_live(settings.policy.keep_for())
            // The fetcher's own limit comes first, since it leaves a cached failure.
            .flight_timeout(flight + FLIGHT_GRACE)
            .max_waiters(settings.max_waiters)
            .runtime(runtime.clone())
            .make_span_with(flight_span)
            .build();
        Self {
            fetcher: Arc::new(Fetcher::new(
                upstream,
                fallbacks,
                store,
                coalescer.clone(),
                &settings,
                flight,
            )),
            policy: settings.policy,
            pages: None,
            coalescer,
            poller: Poller::default(),
            runtime,
            closing: CancellationToken::new(),
        }
    }

    /// Lists older uploads by `pages`.
    #[must_use]
    pub fn with_pages(mut self, pages: Option<Arc<dyn UploadPages>>) -> Self {
        self.pages = pages.map(|pages| OlderUploads::new(pages, self.runtime.clone()));
        self
    }

    /// Answers `query` for an anonymous caller: see [`Self::get_for`].
    pub async fn get(&self, query: Query) -> Reply {
        self.get_for(query, &Caller::default).await
    }

    /// Answers `query`. May be dropped at any time: a flight that it started goes on. `caller` is called only if a lookup is needed.
    ///
    /// A query for one kind of upload reads the channel's own feed first, which has its newest uploads of every kind. The feed of the
    /// kind is read only if none of those is of the kind.
    pub async fn get_for(&self, query: Query, caller: &impl Fn() -> Caller) -> Reply {
        let query = Query {
            max_age: self.policy.granted(query.max_age),
            ..query
        };
        let mut waits_since = None;
        let reply = self
            .answer(
                query,
                query.channel.into(),
                Purpose::Awaited,
                caller,
                &mut waits_since,
            )
            .await;
        match (&reply.outcome, query.kind) {
            (Err(LookupError::NoUploads { .. }), Some(_)) => {
                self.answer(query, query.feed(), Purpose::Awaited, caller, &mut waits_since)
                    .await
            }
            _ => reply,
        }
    }

    /// Answers `query` from `feed`: from the cache if the policy allows it, or else from a flight. The caller `waits_since` its first flight.
    async fn answer(
        &self,
        query: Query,
        feed: Feed,
        purpose: Purpose,
        caller: &impl Fn() -> Caller,
        waits_since: &mut Option<tokio::time::Instant>,
    ) -> Reply {
        let arrived_at = clock::now();
        let mut attempt = Attempt {
            query,
            feed,
            arrived_at,
            now: arrived_at,
        };
        let request = || FlightRequest {
            feed,
            max_age: query.max_age,
            purpose,
            caller: caller(),
        };
        let mut entry = self.coalescer.get(&feed).await;
        let mut miss = None;
        // Whether a flight for this caller has ended, or two of others.
        let mut has_asked = false;
        // A hit takes one pass, a miss two. A third is needed if the flight was another caller's, and its outcome is too old for this one or
        // the other had no budget. One more is needed if the first flight ends with the entry of the store.
        loop {
            let can_ask_others = !has_asked && self.fetcher.can_ask_others(entry.as_deref(), request);
            let decision = self.policy.decide(
                entry.as_deref(),
                query.max_age,
                arrived_at,
                attempt.now,
                can_ask_others,
            );
            let reason = match decision {
                Ok(cached) => {
                    if let Some(entry) = &entry
                        && purpose == Purpose::Awaited
                    {
                        entry.hits.increment();
                    }
                    if let FromCache::Answer { revalidate: true, .. } = cached {
                        self.revalidate(attempt, caller(), entry.clone());
                    }
                    return self.reply(&cached, attempt, miss);
                }
                Err(reason) => reason,
            };
            let request = request();
            let lookup = self.fetcher.lookup(request, arrived_at, entry.clone());
            let error = match self.coalescer.join(feed, lookup) {
                Ok(waiter) => {
                    let collapsed = waiter.collapsed();
                    // Without an entry, a flight may end with that of the store.
                    has_asked = entry.is_some() && (!collapsed || miss.is_some());
                    miss.get_or_insert(Miss { reason, collapsed });
                    if collapsed {
                        self.fetcher.note_joined(&request, entry.as_deref());
                    }
                    let outcome = waiter.outcome();
                    let since = *waits_since.get_or_insert_with(tokio::time::Instant::now);
                    let outcome = match self.give_up_at(entry.as_deref(), arrived_at, since, &request) {
                        // The caller gets the last success, and not this error.
                        Some(at) => timeout_at(at, outcome)
                            .await
                            .unwrap_or(Err(FlightError::TimedOut(Duration::ZERO))),
                        None => outcome.await,
                    };
                    match outcome {
                        Ok(landed) => {
                            entry = Some(landed);
                            attempt.now = clock::now();
                            continue;
                        }
                        Err(error) => map_flight_error(error),
                    }
                }
                Err(Overloaded(waiters)) => LookupError::Overloaded(waiters),
            };
            let collapsed = false;
            let miss = miss.unwrap_or(Miss { reason, collapsed });
            return self.reply_without_lookup(entry.as_deref(), attempt, miss, error);
        }
    }

    /// Starts a flight without waiters, unless there is one already.
    fn revalidate(&self, attempt: Attempt, caller: Caller, seen: Option<Arc<FeedEntry>>) {
        let request = FlightRequest {
            feed: attempt.feed,
            max_age: attempt.query.max_age,
            purpose: Purpose::Refresh,
            caller: Caller {
                deadline: None,
                ..caller
            },
        };
        let lookup = self.fetcher.lookup(request, attempt.now, seen);
        self.coalescer.refresh(attempt.feed, lookup);
    }

    /// Saves what is still queued for the store, within `limit`.
    pub async fn close_store(&self, limit: Duration) {
        if let Some(store) = self.fetcher.store() {
            store.close(limit).await;
        }
    }

    /// Ends all watches, including those that start later.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// How the sources are doing: the feed first, then the others in the order in which they are asked.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceHealth> {
        self.fetcher.sources()
    }

    /// The number of flights in progress.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.coalescer.flight_count()
    }

    /// The number of callers that wait for flights.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.coalescer.waiter_count()
    }

    fn hubs(&self) -> &Arc<Hubs> {
        self.fetcher.hubs()
    }
}

/// The span of a flight, as a child of its first caller's. Created in this crate, so that filters for plaque's spans include it.
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

/// Whether and where an entry is cached. Local conditions such as a full queue say nothing about the channel and are not cached. Failures
/// of channels that were never found have low priority, since a caller can invent any number of such channels.
fn retention(known: &FeedEntry) -> Retention {
    match (&known.success, &known.failure) {
        (_, Some(failure)) if failure.error.is_local_condition() => Retention::Discard,
        (Some(_), _) => Retention::Keep,
        (None, _) => Retention::LowPriority,
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// The bytes of memory that a cache entry takes.
#[must_use]
pub fn weight(known: &FeedEntry) -> u32 {
    let channel = known.success.as_ref().map_or(0, |success| success.value.weight());
    let error = known.failure.as_ref().map_or(0, |failure| failure.error.weight());
    u32::try_from(ENTRY_OVERHEAD + size_of::<FeedEntry>() + channel + error).unwrap_or(u32::MAX)
}
