//! The sources that are asked when the first fails, in order: mirrors of the feed, then the Data API.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::timeout;

use crate::{
    upstream::{Failure, Fallback, Feed, LookupRequest, UpstreamError},
    video::{Channel, Source},
};

/// The sources after the first, and their counters.
pub(super) struct Fallbacks {
    sources: Vec<Fallback>,
    lookups: Family<[(&'static str, &'static str); 2], Counter>,
}

impl Fallbacks {
    pub(super) fn new(sources: Vec<Fallback>) -> Self {
        Self {
            sources,
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
            | UpstreamError::Malformed(_) => !self.sources.is_empty(),
            UpstreamError::NotFound => {
                let knows_all = |source: &Fallback| source.source == Source::DataApi;
                !has_canary && self.sources.iter().any(knows_all)
            }
            UpstreamError::NoSuchChannel
            | UpstreamError::Busy
            | UpstreamError::SuspectSnapshot
            | UpstreamError::Panicked => false,
        }
    }

    /// The longest that all of them take.
    pub(super) fn time_limit(&self) -> Duration {
        self.sources
            .iter()
            .map(|source| source.upstream.time_limit())
            .sum()
    }

    /// The first answer: a snapshot, or that there is no such channel. If there is none, the failure of the first source.
    pub(super) async fn look_up(
        &self,
        feed: Feed,
        request: &LookupRequest,
        first: Failure,
    ) -> Result<Channel, Failure> {
        for Fallback { source, upstream } in &self.sources {
            let limit = upstream.time_limit();
            let looked_up = timeout(limit, upstream.look_up(feed, request.clone())).await;
            let looked_up = looked_up.unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(limit).into()));
            let outcome = match &looked_up {
                Ok(_) => "found",
                Err(failure) if failure.error == UpstreamError::NoSuchChannel => "not_found",
                Err(_) => "error",
            };
            let labels = [("source", source.name()), ("outcome", outcome)];
            self.lookups.get_or_create(&labels).inc();
            match looked_up {
                Ok(channel) => return Ok(channel.with_source(*source)),
                Err(failure) if failure.error == UpstreamError::NoSuchChannel => return Err(failure),
                Err(Failure { error, .. }) => {
                    tracing::debug!(%feed, source = source.name(), %error, "a fallback failed, too");
                }
            }
        }
        Err(first)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        if self.sources.is_empty() {
            return;
        }
        registry.register(
            "fallback_lookups",
            "Lookups at other sources after the feed failed, by source and outcome",
            self.lookups.clone(),
        );
        for Fallback { source, upstream } in &self.sources {
            // The metrics of a mirror are named as those of the first source.
            if *source != Source::Mirror {
                upstream.register(registry);
            }
        }
    }
}
