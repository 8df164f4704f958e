//! The upstream adapter: YouTube's public Atom feeds over HTTP.
//!
//! Feeds need no key and are accurate, but the server in front of them answers 404 for channels that exist, refuses busy addresses for
//! hours, and sends no `Retry-After`, `ETag` or `Last-Modified`. Everything here is bounded: the time of a lookup, the length of a body,
//! concurrent lookups and their rate.

mod body;
mod client;
pub mod data_api;
pub mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod list;
pub mod pages;
mod queue;
mod requests;
mod response;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::HeaderValue;
use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use reqwest::{Client, Url};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

pub(crate) use self::queue::{OverloadMessages, Queue};
pub use self::{
    client::{BadProxy, IpVersion, Proxy, SetupError, USER_AGENT},
    queue::Pace,
};
use self::{
    guard::{Admission, Guard},
    list::List,
    queue::Permit,
    requests::Requests,
};
use crate::{
    metrics::SECONDS,
    upstream::{
        Caller, Failure, Feed, Lookup, LookupRequest, NameSource, Purpose, QueueStatus, SourceStatus,
        Upstream, UpstreamError,
    },
    video::{Channel, ChannelName, Kind, ResolvedChannel},
};

/// The pause before a second attempt: a refused connection may work a moment later.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The log's lines on an overload by feeds.
const OVERLOAD: OverloadMessages = OverloadMessages {
    begins: "more lookups are requested than may go out (--upstream-rate, --upstream-concurrency): the others fail with OVERLOADED",
    ends: "lookups are no longer refused",
};

/// A client of YouTube's feeds, or of another server with the same API. Clones share everything.
#[derive(Clone)]
pub struct YouTube {
    client: Client,
    feeds: Url,
    /// The limit of a fetch, with both attempts: connecting, headers and body.
    time_limit: Duration,
    max_queue_wait: Duration,
    queue: Arc<Queue>,
    guard: Arc<Guard>,
    requests: Requests,
}

/// How to look up feeds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the feeds; `channel_id=…` or `playlist_id=…` is appended.
    pub feeds: Url,
    /// The limit of a fetch, without its wait in the queue.
    pub time_limit: Duration,
    /// Rate, concurrency and queue.
    pub pace: Pace,
    /// PEM certificates of authorities to trust in addition to the system's.
    pub authorities: Option<Vec<u8>>,
    /// The proxy, if there is one.
    pub proxy: Option<Proxy>,
    /// The IP version to connect with.
    pub ip_version: IpVersion,
    /// The `User-Agent` header.
    pub user_agent: HeaderValue,
}

impl Settings {
    /// Looks up at `feeds`, with a limit of 10 seconds and the default [`Pace`].
    #[must_use]
    pub fn new(feeds: Url) -> Self {
        Self {
            feeds,
            time_limit: Duration::from_secs(10),
            pace: Pace::default(),
            authorities: None,
            proxy: None,
            ip_version: IpVersion::Any,
            user_agent: HeaderValue::from_static(USER_AGENT),
        }
    }
}

impl YouTube {
    /// Creates a client.
    ///
    /// # Errors
    ///
    /// If the feeds or the proxy have an `https` address and there is no usable certificate store, or if the authorities cannot be read.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let host = client::host(&settings.feeds);
        Ok(Self {
            client: client::client(&settings)?,
            feeds: settings.feeds,
            time_limit: settings.time_limit,
            max_queue_wait: settings.pace.max_queue_wait,
            queue: Queue::new(&settings.pace, OVERLOAD),
            guard: Arc::new(Guard::new(host)),
            requests: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        })
    }

    /// Waits for the first permit. For videos, the lookup fetches two lists: YouTube lists streams separately.
    async fn begin_lookup(&self, feed: Feed, request: LookupRequest) -> Result<Lookup<'_>, Failure> {
        let deadline = Instant::now() + self.max_duration();
        let ready = self
            .wait_for_permit(List::of(feed), request.clone(), deadline)
            .await?;
        Ok(Box::pin(async move {
            let first = self.fetch(ready, deadline).await;
            if feed.kind != Some(Kind::Video) {
                return first;
            }
            // In sequence: if the first fails, the second is not needed.
            let videos = none_if_not_found(first)?;
            let streams = match self.wait_for_permit(List::streams(feed), request, deadline).await {
                Ok(ready) => self.fetch(ready, deadline).await,
                Err(refused) => Err(refused),
            };
            match (videos, none_if_not_found(streams)?) {
                (Some(videos), Some(streams)) => Ok(videos.merged(&streams)),
                (Some(one), None) | (None, Some(one)) => Ok(one),
                (None, None) => Err(UpstreamError::NotFound.into()),
            }
        }))
    }

    fn max_duration(&self) -> Duration {
        self.max_queue_wait.saturating_add(self.time_limit)
    }

    /// Waits for a permit to fetch `list`. Fails if the upstream refuses this address.
    async fn wait_for_permit(
        &self,
        list: List,
        request: LookupRequest,
        deadline: Instant,
    ) -> Result<ReadyFetch, Failure> {
        // Do not queue while the breaker is open.
        self.guard.check()?;
        let permit = timeout_at(deadline, self.queue.permit(list.feed, request.clone())).await;
        let permit = permit.map_err(|_elapsed| Failure::from(UpstreamError::Busy))??;
        self.guard.check()?;
        Ok(ReadyFetch {
            list,
            permit,
            request,
        })
    }

    /// Fetches a list, unless the breaker has opened meanwhile.
    async fn fetch(&self, ready: ReadyFetch, deadline: Instant) -> Result<Channel, Failure> {
        let ReadyFetch {
            list,
            permit,
            request,
        } = ready;
        let admitted = self
            .guard
            .admit(list.feed.channel, request.found_before, request.caller.id);
        match admitted {
            Ok(admission) => self.fetch_twice(list, permit, admission, deadline).await,
            Err(refused) => {
                drop(permit);
                self.probe_if_due();
                Err(refused)
            }
        }
    }

    /// Fetches `list`, with one retry if the response was lost, and reports the outcome.
    async fn fetch_twice(
        &self,
        list: List,
        mut permit: Permit,
        admission: Admission,
        deadline: Instant,
    ) -> Result<Channel, Failure> {
        permit.begin();
        let limit = deadline.min(Instant::now() + self.time_limit);
        let fetched = timeout_at(limit, async {
            let fetched = self.send(list, None).await;
            // A lost probe is not retried: it has shown enough.
            if admission.is_probe() || !fetched.as_ref().is_err_and(is_worth_retry) {
                return fetched;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            if !permit.try_retry() {
                return fetched;
            }
            self.send(list, Some(1)).await
        });
        let fetched = fetched.await;
        permit.complete();
        let fetched = fetched.unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(self.time_limit).into()));
        // Before the permit is returned: if the breaker opens, no other lookup may use it.
        let reported = self.report_to_breaker(admission, fetched);
        drop(permit);
        reported
    }

    /// Reports the outcome of a fetch to the breaker. If that opens, fails all queued lookups.
    fn report_to_breaker(
        &self,
        admission: Admission,
        fetched: Result<Channel, Failure>,
    ) -> Result<Channel, Failure> {
        admission.report(fetched.as_ref().err());
        if let Err(refused) = self.guard.check_after(fetched.as_ref().err()) {
            self.queue.drain(&refused);
            return Err(refused);
        }
        self.probe_if_due();
        fetched
    }

    /// Spawns the probe if one is due and can be made with a proven channel.
    fn probe_if_due(&self) {
        let Some(admission) = self.guard.begin_probe() else {
            return;
        };
        let youtube = self.clone();
        // Bounded by the time of a lookup. If the runtime ends first, dropping the admission reports silence.
        tokio::spawn(async move {
            let deadline = Instant::now() + youtube.max_duration();
            let request = LookupRequest {
                found_before: true,
                ..LookupRequest::of(Purpose::Awaited)
            };
            // Without a permit the probe reports silence.
            let feed = admission.channel().into();
            if let Ok(Ok(permit)) = timeout_at(deadline, youtube.queue.permit(feed, request)).await {
                let list = List::of(feed);
                let _ = youtube.fetch_twice(list, permit, admission, deadline).await;
            }
        });
    }
}

impl Upstream for YouTube {
    fn look_up(&self, feed: Feed, request: LookupRequest) -> Lookup<'_> {
        Box::pin(async move { self.admit(feed, request).await?.await })
    }

    fn admit(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Lookup<'_>, Failure>> {
        let span = tracing::info_span!("lookup", %feed);
        let ready = self.begin_lookup(feed, request).instrument(span.clone());
        Box::pin(async move {
            let lookup = ready
                .await
                .inspect_err(|failure| record_outcome(&span, Err(failure)))?;
            let lookup: Lookup<'_> = Box::pin(async move {
                let looked_up = lookup.instrument(span.clone()).await;
                record_outcome(&span, looked_up.as_ref());
                looked_up
            });
            Ok(lookup)
        })
    }

    fn joined(&self, feed: Feed, request: LookupRequest) {
        self.queue.joined(feed, &request);
    }

    fn time_limit(&self) -> Duration {
        self.max_duration()
    }

    fn admitted_limit(&self) -> Duration {
        self.time_limit
    }

    fn room_for_polls(&self) -> Option<f64> {
        self.queue.room_for_polls()
    }

    fn status(&self) -> SourceStatus {
        let (queued, sent) = self.queue.counts();
        SourceStatus {
            host: client::host(&self.feeds),
            queue: Some(QueueStatus {
                breaker: self.guard.state_name(),
                queued,
                sent,
            }),
            ..SourceStatus::default()
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "upstream_request_duration",
            "HTTP requests to the feed: found, not_found, rate_limited, malformed, timeout or error",
            Unit::Seconds,
            self.requests.clone(),
        );
        self.queue.register(registry);
        self.guard.register(registry);
    }
}

impl NameSource for YouTube {
    /// Legacy names only: `user=`.
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
        caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move {
            let ChannelName::User(user) = name else {
                return None;
            };
            let owner = async {
                let resolved = timeout_at(Instant::now() + self.time_limit, self.owner(user)).await;
                resolved.unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(self.time_limit).into()))
            };
            match self.guard.request_by_name(caller.id, owner).await {
                // In an outage that means nothing. Other sources know.
                Err(failure) if failure.error == UpstreamError::NotFound => None,
                resolved => Some(resolved),
            }
        })
    }
}

/// A list with a permit to fetch it. Dropping it returns the permit.
struct ReadyFetch {
    list: List,
    permit: Permit,
    request: LookupRequest,
}

fn record_outcome(span: &Span, looked_up: Result<&Channel, &Failure>) {
    span.in_scope(|| match looked_up {
        Ok(found) => tracing::debug!(uploads = found.len(), "looked up"),
        Err(Failure { error, .. }) => tracing::debug!(%error, "lookup failed"),
    });
}

/// Whether the response was lost, so that a retry may succeed.
fn is_worth_retry(failure: &Failure) -> bool {
    match failure.error {
        UpstreamError::Unreachable(_) => true,
        // A server that sends a time means it.
        UpstreamError::Status(500..) => failure.retry_after.is_none(),
        _ => false,
    }
}

/// Maps a list that does not exist to `None`: a channel may have no streams, or nothing else.
fn none_if_not_found(looked_up: Result<Channel, Failure>) -> Result<Option<Channel>, Failure> {
    match looked_up {
        Ok(channel) => Ok(Some(channel)),
        Err(failure) if failure.error == UpstreamError::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
