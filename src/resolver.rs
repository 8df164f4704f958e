//! Resolves names of channels: handles, legacy and custom names, and addresses, to IDs.
//!
//! An ID needs no lookup. For other names the sources are asked in order, until one knows: concurrent callers of one name share
//! a flight of a [`Coalescer`], as those of a feed do.

use std::{sync::Arc, time::Duration};

use coalesce::{Coalescer, FlightError, Overloaded, Retention};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    channel_name::{ChannelName, ResolvedChannel},
    upstream::{NameSource, UpstreamError},
};

/// How long a name is cached: handles can move to another channel, but rarely do.
const KEEP_FOR: Duration = Duration::from_hours(30 * 24);

/// How long it is cached that there is no such name.
const NOT_FOUND_FOR: Duration = Duration::from_mins(5);

/// How long a failure is cached.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// Names that are cached, about 200 bytes each.
const CAPACITY: u64 = 50_000;

/// Names that are cached although nobody has them, or nobody can tell: anybody can make these up.
const LOW_PRIORITY_CAPACITY: u64 = 5_000;

/// Names that are looked up at one time.
const CONCURRENCY: usize = 8;

/// The longest that a flight takes, with its wait.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Why a name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such channel.
    #[error("{0} was not found; check its spelling, or give the channel's ID")]
    NotFound(ChannelName),
    /// No source could tell.
    #[error("{0}")]
    Upstream(UpstreamError),
    /// Too many callers wait already.
    #[error("the server is overloaded: {0} callers wait for names already")]
    Overloaded(usize),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

type Resolution = Result<ResolvedChannel, UpstreamError>;

/// Resolves names. Clones share the cache.
#[derive(Clone)]
pub struct Resolver {
    names: Coalescer<ChannelName, Arc<Resolution>>,
    sources: Arc<[Arc<dyn NameSource>]>,
    concurrency: Arc<Semaphore>,
}

impl Resolver {
    /// Resolves by `sources`, the first that can tell, with flights that run on `runtime`.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn NameSource>>, max_waiters: usize, runtime: Handle) -> Self {
        let names = Coalescer::<ChannelName, Arc<Resolution>>::builder(CAPACITY)
            .low_priority_capacity(LOW_PRIORITY_CAPACITY)
            .retention(|_name, resolution| match **resolution {
                Ok(_) => Retention::Keep,
                Err(_) => Retention::LowPriority,
            })
            .expire_after_write(|_name, resolution| {
                Some(match &**resolution {
                    Ok(_) => KEEP_FOR,
                    Err(UpstreamError::NotFound) => NOT_FOUND_FOR,
                    Err(_) => FAILED_FOR,
                })
            })
            .flight_timeout(TIME_LIMIT)
            .max_waiters(max_waiters)
            .runtime(runtime)
            .build();
        Self {
            names,
            sources: sources.into(),
            concurrency: Arc::new(Semaphore::new(CONCURRENCY)),
        }
    }

    /// Resolves `name`. May be dropped at any time: a flight that it started goes on.
    ///
    /// # Errors
    ///
    /// If there is no such name, or no source can tell.
    pub async fn resolve(&self, name: ChannelName) -> Result<ResolvedChannel, ResolveError> {
        if let ChannelName::Id(id) = name {
            let title = "".into();
            return Ok(ResolvedChannel { id, title });
        }
        let (sources, concurrency, query) = (
            Arc::clone(&self.sources),
            Arc::clone(&self.concurrency),
            name.clone(),
        );
        let look_up = move || async move {
            // Never closed.
            let _permit = concurrency.acquire().await;
            Arc::new(first(&sources, &query).await)
        };
        let resolution = self.names.get_or_fetch(name.clone(), look_up).await;
        match &*resolution.map_err(map_error)? {
            Ok(channel) => Ok(channel.clone()),
            Err(UpstreamError::NotFound) => Err(ResolveError::NotFound(name)),
            Err(error) => Err(ResolveError::Upstream(error.clone())),
        }
    }
}

fn map_error(error: coalesce::Error) -> ResolveError {
    match error {
        coalesce::Error::Overloaded(Overloaded(waiters)) => ResolveError::Overloaded(waiters),
        coalesce::Error::Flight(FlightError::Aborted) => ResolveError::ShuttingDown,
        coalesce::Error::Flight(FlightError::Panicked) => ResolveError::Upstream(UpstreamError::Panicked),
        coalesce::Error::Flight(FlightError::TimedOut(limit)) => {
            ResolveError::Upstream(UpstreamError::TimedOut(limit))
        }
    }
}

/// The answer of the first source that can tell; if none can, the failure of the last.
async fn first(sources: &[Arc<dyn NameSource>], name: &ChannelName) -> Resolution {
    let mut failed = UpstreamError::Unreachable("no source is configured for names of this form".into());
    for source in sources {
        match source.resolve(name).await {
            None => {}
            Some(Ok(channel)) => return Ok(channel),
            Some(Err(failure)) => match failure.error {
                UpstreamError::NoSuchChannel | UpstreamError::NotFound => {
                    return Err(UpstreamError::NotFound);
                }
                error => {
                    tracing::debug!(%name, %error, "a source could not resolve the name");
                    failed = error;
                }
            },
        }
    }
    Err(failed)
}
