//! The sources that are asked when the first fails or lags, in order: mirrors of the feed, then the Data API.

mod mirrored;

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeMetric,
    metrics::{
        TypedMetric,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};
use tokio::time::timeout;

use self::mirrored::Vanished;
use super::{hang::HangBreaker, health::SourceFailures};
use crate::{
    clock, metrics,
    upstream::{
        Failure, Fallback, Feed, Lookup, LookupRequest, SourceHealth, SourceStatus, Upstream, UpstreamError,
    },
    video::{Channel, Source},
};

/// How much longer than for a lookup at the first source callers wait for all of these together, if they can be given the last success.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sources after the first, and their counters.
pub(super) struct Fallbacks {
    sources: Arc<[Member]>,
    /// Locked for lookups in a memory of some thousand IDs. In memory only: a restart forgets it.
    vanished: Mutex<Vanished>,
    lookups: Family<[(&'static str, &'static str); 2], Counter>,
}

struct Member {
    source: Source,
    upstream: Arc<dyn Upstream>,
    failures: SourceFailures,
    hang: HangBreaker,
}

impl Fallbacks {
    pub(super) fn new(sources: Vec<Fallback>) -> Self {
        let members = sources.into_iter().map(|Fallback { source, upstream }| Member {
            source,
            upstream,
            failures: SourceFailures::default(),
            hang: HangBreaker::default(),
        });
        Self {
            sources: members.collect(),
            vanished: Mutex::default(),
            lookups: Family::default(),
        }
    }

    /// Whether there is a source to ask after this failure of the first. Not after a 404 that means that there is no such channel (without a
    /// canary that is for the Data API to say), and not for lookups that this server's own limits have kept back: those limits are there
    /// to send less.
    pub(super) fn help_after(&self, error: &UpstreamError, has_canary: bool) -> bool {
        match error {
            UpstreamError::Outage
            | UpstreamError::RateLimited(_)
            | UpstreamError::Status(_)
            | UpstreamError::Unreachable(_)
            | UpstreamError::TimedOut(_)
            | UpstreamError::Malformed(_)
            | UpstreamError::Panicked => !self.sources.is_empty(),
            UpstreamError::NotFound => {
                let knows_all = |member: &Member| member.source == Source::DataApi;
                !has_canary && self.sources.iter().any(knows_all)
            }
            UpstreamError::NoSuchChannel | UpstreamError::Busy | UpstreamError::SuspectSnapshot => false,
        }
    }

    /// Notes what has vanished from a channel's feed since the snapshot `known`. Mirrors that are behind do not bring it back.
    pub(super) fn note_vanished(&self, new: &Channel, known: &Channel) {
        let has_mirrors = self.sources.iter().any(|member| member.source == Source::Mirror);
        if has_mirrors && new.source() == Source::Feed {
            self.vanished.lock().note(new, known);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether one of them has budget for such a lookup.
    pub(super) fn have_budget(&self, request: &LookupRequest) -> bool {
        self.sources
            .iter()
            .any(|member| member.upstream.has_budget(request))
    }

    /// The longest that all of them take.
    pub(super) fn time_limit(&self) -> Duration {
        self.sources
            .iter()
            .map(|member| member.upstream.time_limit())
            .sum()
    }

    /// How long callers who can be given the last success wait for a lookup. Without such sources, until their deadline.
    pub(super) fn patience(&self, first: &dyn Upstream) -> Option<Duration> {
        (!self.sources.is_empty()).then(|| first.admitted_limit() + PATIENCE)
    }

    /// The first answer: a snapshot, or that there is no such channel. If there is none, the failure of the first source.
    pub(super) async fn look_up(
        &self,
        feed: Feed,
        request: &LookupRequest,
        mut first: Failure,
    ) -> Result<Channel, Failure> {
        for member in &*self.sources {
            let source = &member.source;
            let looked_up = member
                .look_up(feed, request)
                .await
                .and_then(|channel| match source {
                    Source::Mirror => {
                        let (known, now) = (request.known.as_deref(), SystemTime::now());
                        Ok(mirrored::accept(&channel, known, &self.vanished.lock(), now)?)
                    }
                    Source::Feed | Source::DataApi => Ok(channel.with_source(*source)),
                });
            let outcome = match &looked_up {
                Ok(_) => "found",
                Err(failure) if failure.error == UpstreamError::NoSuchChannel => "not_found",
                Err(_) => "error",
            };
            let labels = [("source", source.name()), ("outcome", outcome)];
            self.lookups.get_or_create(&labels).inc();
            member.record(feed, request, &looked_up);
            match looked_up {
                Ok(channel) => return Ok(channel),
                Err(failure) if failure.error == UpstreamError::NoSuchChannel => return Err(failure),
                Err(Failure {
                    error, out_of_budget, ..
                }) => {
                    first.out_of_budget |= out_of_budget;
                    tracing::debug!(%feed, source = source.name(), %error, "a fallback failed, too");
                }
            }
        }
        Err(first)
    }

    /// How each of them is doing.
    pub(super) fn health(&self) -> impl Iterator<Item = SourceHealth> {
        let health = |member: &Member| member.failures.health(member.source, &*member.upstream);
        self.sources.iter().map(health)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        if self.is_empty() {
            return;
        }
        registry.register(
            "fallback_lookups",
            "Lookups at other sources (mirror, data-api) after the feed failed: found, not_found or error",
            self.lookups.clone(),
        );
        self.register_by_source(
            registry,
            "fallback_failing",
            "1 if the last lookup at a source other than the feed failed, however long ago that was; else 0",
            |member, _| Some(ConstGauge::new(u64::from(member.failures.is_failing()))),
        );
        self.register_by_source(
            registry,
            "fallback_breaker_open",
            "1 while a source other than the feed is skipped, since it hangs or refuses this address, else 0",
            |member, status| {
                let refuses = status.queue.is_some_and(|queue| queue.breaker != "closed");
                Some(ConstGauge::new(u64::from(refuses || member.hang.is_open())))
            },
        );
        self.register_by_source(
            registry,
            "fallback_queue",
            "Queued lookups at a mirror",
            |_, status| Some(ConstGauge::new(status.queue?.queued)),
        );
        self.register_by_source(
            registry,
            "fallback_sent",
            "Requests sent to a mirror",
            |_, status| Some(ConstCounter::new(status.queue?.sent)),
        );
        for member in &*self.sources {
            // The metrics of a mirror are named as those of the first source.
            if member.source != Source::Mirror {
                member.upstream.register(registry);
            }
        }
    }

    /// Registers a metric with one value for each source that has one. Several may have the same host, so their position in the order is a
    /// label, too.
    fn register_by_source<M: EncodeMetric + TypedMetric>(
        &self,
        registry: &mut Registry,
        name: &'static str,
        help: &'static str,
        value: impl Fn(&Member, &SourceStatus) -> Option<M> + Send + Sync + 'static,
    ) {
        let sources = Arc::clone(&self.sources);
        metrics::read(registry, move |mut encoder| {
            let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
            let encode = |(index, member): (usize, &Member)| -> fmt::Result {
                let status = member.upstream.status();
                let Some(value) = value(member, &status) else {
                    return Ok(());
                };
                let labels = [
                    ("source", member.source.name().to_owned()),
                    ("position", (index + 1).to_string()),
                    ("host", status.host),
                ];
                value.encode(family.encode_family(&labels)?)
            };
            sources.iter().enumerate().try_for_each(encode)
        });
    }
}

impl Member {
    async fn look_up(&self, feed: Feed, request: &LookupRequest) -> Result<Channel, Failure> {
        let limit = self.upstream.time_limit();
        self.hang.admit(feed, limit, clock::now())?;
        carry_out(limit, self.upstream.look_up(feed, request.clone())).await
    }

    /// Records the outcome of a lookup. A failure counts if it was for a channel's own feed: not every mirror has lists of one kind.
    fn record(&self, feed: Feed, request: &LookupRequest, looked_up: &Result<Channel, Failure>) {
        let outcome = looked_up.as_ref().map(|_| ()).map_err(|failure| &failure.error);
        self.hang.report(self.source, &*self.upstream, feed, outcome);
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(_) if feed.kind.is_some() => return,
            Err(UpstreamError::NotFound) if request.found_before => Err(&UpstreamError::Outage),
            Err(error) => Err(error),
        };
        self.failures.record(outcome, SystemTime::now());
    }
}

/// Carries out a lookup of a source. It has failed if it panics, or takes longer than `limit`.
pub(super) async fn carry_out(limit: Duration, lookup: Lookup<'_>) -> Result<Channel, Failure> {
    match AssertUnwindSafe(timeout(limit, lookup)).catch_unwind().await {
        Ok(Ok(looked_up)) => looked_up,
        Ok(Err(_elapsed)) => Err(UpstreamError::TimedOut(limit).into()),
        Err(_panic) => Err(UpstreamError::Panicked.into()),
    }
}
