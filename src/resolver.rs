//! Resolves names of channels to IDs: handles, legacy and custom names, videos.
//!
//! Concurrent callers of one name share a flight of a [`Coalescer`]. The flight looks in the store, then waits for a permit, and asks the sources
//! in order until one knows. Permits come from a queue like that of feeds, in which callers take turns: anybody can make names up, and each
//! would be a request from this server's address.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use coalesce::{Coalescer, FlightError, Overloaded, Retention};
use tokio::runtime::Handle;

use crate::{
    store::{Store, lifetime::NAME_LIFETIME},
    upstream::{Caller, Failure, LookupRequest, NameSource, Purpose, UpstreamError},
    video::{ChannelName, ResolvedChannel},
    youtube::{OverloadMessages, Pace, Queue},
};

/// How long it is cached that there is no such name.
const NOT_FOUND_FOR: Duration = Duration::from_mins(5);

/// How long a failure is cached.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// Names that are cached, about 200 bytes each.
const CAPACITY: u64 = 50_000;

/// Cached failures. They are separate from the names that were found, since anybody can make names up.
const LOW_PRIORITY_CAPACITY: u64 = 5_000;

/// Concurrent lookups of names.
const CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// The part of the feeds' rate that names may have, in addition to the feeds. A name takes one to four requests.
const RATE_PART: f64 = 0.25;

/// The log's lines on an overload by names. No flag raises their concurrency.
const OVERLOAD: OverloadMessages = OverloadMessages {
    begins: "more names of channels are requested than may be looked up (8 at a time, a quarter of --upstream-rate): the others fail with \
             OVERLOADED; spread them out, or ask by ID",
    ends: "names of channels are no longer refused",
};

/// The longest that a flight takes, with its wait.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Why a name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such channel.
    #[error("{0} was not found; check its spelling, or give the channel's ID")]
    NotFound(ChannelName),
    /// No source knows, and the last one that was asked failed; its host, if callers may learn it.
    #[error("{at}{0}", at = .1.as_ref().map_or_else(String::new, |host| format!("names are looked up at {host}: ")))]
    Upstream(Failure, Option<Box<str>>),
    /// Too many callers wait already.
    #[error("the server is overloaded: {0} callers wait for names already")]
    Overloaded(usize),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl ResolveError {
    /// When to retry, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream(failure, _) => failure.retry_after,
            Self::NotFound(_) | Self::Overloaded(_) | Self::ShuttingDown => None,
        }
    }
}

/// A failure, and the host that it is of, if callers may learn it.
type Unresolved = (Failure, Option<Box<str>>);

/// The outcome of a flight, and for how long it may be cached.
struct Resolution {
    outcome: Result<ResolvedChannel, Unresolved>,
    keep_for: Duration,
}

/// Resolves names. Clones share the cache.
#[derive(Clone)]
pub struct Resolver {
    names: Coalescer<ChannelName, Arc<Resolution>>,
    lookup: Arc<NameLookup>,
}

/// What flights share.
struct NameLookup {
    sources: Vec<Arc<dyn NameSource>>,
    store: Option<Arc<dyn Store>>,
    queue: Arc<Queue>,
}

impl Resolver {
    /// Resolves by the first of `sources` that knows a name, with flights that run on `runtime`. `pace` is that of the feeds.
    #[must_use]
    pub fn new(
        sources: Vec<Arc<dyn NameSource>>,
        store: Option<Arc<dyn Store>>,
        pace: Pace,
        max_waiters: usize,
        runtime: Handle,
    ) -> Self {
        let names = Coalescer::<ChannelName, Arc<Resolution>>::builder(CAPACITY)
            .low_priority_capacity(LOW_PRIORITY_CAPACITY)
            .retention(|_name, resolution| match &resolution.outcome {
                Ok(_) => Retention::Keep,
                // Says nothing about the name, or not what another caller would get.
                Err((failure, _)) if failure.error.is_local_condition() || failure.out_of_budget => {
                    Retention::Discard
                }
                Err(_) => Retention::LowPriority,
            })
            .expire_after_write(|_name, resolution| Some(resolution.keep_for))
            .flight_timeout(TIME_LIMIT)
            .max_waiters(max_waiters)
            .runtime(runtime)
            .build();
        let pace = Pace {
            concurrency: CONCURRENCY,
            rate: pace.rate.map(|rate| rate * RATE_PART),
            ..pace
        };
        Self {
            names,
            lookup: Arc::new(NameLookup {
                sources,
                store,
                queue: Queue::new(&pace, OVERLOAD),
            }),
        }
    }

    /// Resolves `name` for `caller`. May be dropped at any time: a flight that it started goes on.
    ///
    /// # Errors
    ///
    /// If there is no such name, or no source knows.
    pub async fn resolve(&self, name: ChannelName, caller: Caller) -> Result<ResolvedChannel, ResolveError> {
        if let ChannelName::Id(id) = name {
            let title = "".into();
            return Ok(ResolvedChannel { id, title });
        }
        let (lookup, wanted) = (Arc::clone(&self.lookup), name.clone());
        let fetch = move || async move { Arc::new(lookup.look_up(&wanted, caller).await) };
        let resolution = self.names.get_or_fetch(name.clone(), fetch).await;
        match &resolution.map_err(map_error)?.outcome {
            Ok(channel) => Ok(channel.clone()),
            Err((failure, _)) if failure.error == UpstreamError::NotFound => {
                Err(ResolveError::NotFound(name))
            }
            Err((failure, host)) => Err(ResolveError::Upstream(failure.clone(), host.clone())),
        }
    }
}

impl NameLookup {
    async fn look_up(&self, name: &ChannelName, caller: Caller) -> Resolution {
        if let Some(store) = &self.store
            && let Some((channel, keep_for)) = store.load_name(name).await
        {
            let outcome = Ok(channel);
            return Resolution { outcome, keep_for };
        }
        let outcome = self.admit(name, caller).await;
        if let (Some(store), Ok(channel)) = (&self.store, &outcome) {
            store.save_name(name, channel).await;
        }
        let keep_for = match &outcome {
            Ok(_) => NAME_LIFETIME,
            Err((failure, _)) if failure.error == UpstreamError::NotFound => NOT_FOUND_FOR,
            Err(_) => FAILED_FOR,
        };
        Resolution { outcome, keep_for }
    }

    /// Asks the sources, once there is a permit.
    async fn admit(&self, name: &ChannelName, caller: Caller) -> Result<ResolvedChannel, Unresolved> {
        // Others with later deadlines may join the flight.
        let deadline = None;
        let request = LookupRequest {
            caller: Caller { deadline, ..caller },
            ..LookupRequest::of(Purpose::Awaited)
        };
        let permit = self.queue.permit(None, request).await;
        let mut permit = permit.map_err(|failure| (failure, None))?;
        permit.begin();
        let resolved = self.ask(name, caller).await;
        permit.complete();
        resolved
    }

    /// The answer of the first source that knows; if none does, the failure of the last.
    async fn ask(&self, name: &ChannelName, caller: Caller) -> Result<ResolvedChannel, Unresolved> {
        let mut failed: Failure =
            UpstreamError::Unreachable("no source is configured for names of this form".into()).into();
        let (mut host, mut out_of_budget) = (None, false);
        for source in &self.sources {
            match source.resolve(name, caller).await {
                None => {}
                Some(Ok(channel)) => return Ok(channel),
                Some(Err(failure)) => match failure.error {
                    UpstreamError::NoSuchChannel | UpstreamError::NotFound => {
                        return Err((UpstreamError::NotFound.into(), None));
                    }
                    _ => {
                        tracing::debug!(%name, error = %failure, "a source could not resolve the name");
                        out_of_budget |= failure.out_of_budget;
                        failed = failure;
                        host = source.host().map(Into::into);
                    }
                },
            }
        }
        let failure = Failure {
            out_of_budget,
            ..failed
        };
        Err((failure, host))
    }
}

fn map_error(error: coalesce::Error) -> ResolveError {
    match error {
        coalesce::Error::Overloaded(Overloaded(waiters)) => ResolveError::Overloaded(waiters),
        coalesce::Error::Flight(FlightError::Aborted) => ResolveError::ShuttingDown,
        coalesce::Error::Flight(FlightError::Panicked) => {
            ResolveError::Upstream(UpstreamError::Panicked.into(), None)
        }
        coalesce::Error::Flight(FlightError::TimedOut(limit)) => {
            ResolveError::Upstream(UpstreamError::TimedOut(limit).into(), None)
        }
    }
}

#[cfg(test)]
mod tests;
