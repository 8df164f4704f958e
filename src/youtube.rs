//! The upstream adapter: YouTube's public Atom feeds over HTTP.
//!
//! A feed needs no key and tells no lies, but the server in front of it answers 404 for channels that exist, refuses busy
//! addresses for hours, and sends no `Retry-After`, `ETag` or `Last-Modified`. Everything here is bounded: the time of a lookup,
//! the bytes of an answer, the lookups at once and a second.

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

pub use self::{
    client::{BadProxy, IpVersion, Proxy, SetupError, USER_AGENT},
    queue::Pace,
};
use self::{
    guard::{Admission, Guard},
    list::List,
    queue::{Permit, Queue},
    requests::Requests,
};
use crate::{
    metrics::SECONDS,
    upstream::{Caller, Failure, Feed, Lookup, LookupRequest, Purpose, Upstream, UpstreamError},
    video::{Channel, Kind},
};

/// Before the second attempt: what refused a connection at this moment may be back in the next.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// YouTube's feeds, or something that serves the same under another address. A clone shares everything.
#[derive(Clone)]
pub struct YouTube {
    client: Client,
    feeds: Url,
    /// From the moment the request goes out: connecting, headers, body, and all that again.
    time_limit: Duration,
    max_queue_wait: Duration,
    queue: Arc<Queue>,
    guard: Arc<Guard>,
    requests: Requests,
}

/// How to look feeds up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they are; `channel_id=…` or `playlist_id=…` is appended.
    pub feeds: Url,
    /// What a lookup may take.
    pub time_limit: Duration,
    /// When one may go out.
    pub pace: Pace,
    /// Authorities that are trusted beside those of the system: PEM.
    pub authorities: Option<Vec<u8>>,
    /// What they are asked through, if not directly.
    pub proxy: Option<Proxy>,
    /// By which protocol.
    pub ip_version: IpVersion,
    /// How we introduce ourselves.
    pub user_agent: HeaderValue,
}

impl Settings {
    /// Lookups at `feeds`, of 10 seconds at most, at the default [`Pace`].
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
    /// An adapter for the feeds that `settings` name.
    ///
    /// # Errors
    ///
    /// If they or the proxy are at an `https` address and there is no usable certificate store, or the authorities cannot be read.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        Ok(Self {
            client: client::client(&settings)?,
            feeds: settings.feeds,
            time_limit: settings.time_limit,
            max_queue_wait: settings.pace.max_queue_wait,
            queue: Queue::new(&settings.pace),
            guard: Arc::default(),
            requests: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        })
    }

    /// Videos are what is no Short, and YouTube keeps those that were streamed in a list of their own.
    async fn admit_first(&self, feed: Feed, request: LookupRequest) -> Result<Lookup<'_>, Failure> {
        let deadline = Instant::now() + self.longest();
        let turn = self.turn(List::of(feed), request, deadline).await?;
        Ok(Box::pin(async move {
            let first = self.fetch(turn, deadline).await;
            if feed.kind != Some(Kind::Video) {
                return first;
            }
            // One after the other: if the first fails, the second need not be asked.
            let videos = found(first)?;
            let streams = match self.turn(List::streams(feed), request, deadline).await {
                Ok(turn) => self.fetch(turn, deadline).await,
                Err(refused) => Err(refused),
            };
            match (videos, found(streams)?) {
                (Some(videos), Some(streams)) => Ok(videos.merged(&streams)),
                (Some(one), None) | (None, Some(one)) => Ok(one),
                (None, None) => Err(UpstreamError::NotFound.into()),
            }
        }))
    }

    /// The wait for a turn, and the fetch.
    fn longest(&self) -> Duration {
        self.max_queue_wait.saturating_add(self.time_limit)
    }

    /// Waits until `list` may be fetched, unless the upstream refuses us by then.
    async fn turn(&self, list: List, request: LookupRequest, deadline: Instant) -> Result<Turn, Failure> {
        // Not into the queue for a turn that is not to be had.
        self.guard.check()?;
        let permit = timeout_at(deadline, self.queue.permit(list.feed, request)).await;
        let permit = permit.map_err(|_elapsed| Failure::from(UpstreamError::Busy))??;
        self.guard.check()?;
        Ok(Turn {
            list,
            permit,
            request,
        })
    }

    /// Fetches a list, unless the upstream refuses us by now.
    async fn fetch(&self, turn: Turn, deadline: Instant) -> Result<Channel, Failure> {
        let Turn {
            list,
            permit,
            request,
        } = turn;
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

    /// Fetches `list`, and once more if that was lost on the way; reports what came of it.
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
            // A probe that was lost has said enough.
            if admission.is_probe() || !fetched.as_ref().is_err_and(is_worth_another) {
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
        // Before the permit is given back: if the upstream refuses us, no other lookup is to go out in its place.
        let reported = self.report_to_breaker(admission, fetched);
        drop(permit);
        reported
    }

    /// Reports what came of a lookup. If the upstream refuses us, says so to everybody who waits for a turn.
    fn report_to_breaker(
        &self,
        admission: Admission,
        fetched: Result<Channel, Failure>,
    ) -> Result<Channel, Failure> {
        admission.report(fetched.as_ref().err());
        let refusal = matches!(
            fetched,
            Err(Failure {
                error: UpstreamError::RateLimited(_) | UpstreamError::Status(403),
                ..
            })
        );
        if refusal && let Err(refused) = self.guard.check() {
            self.queue.drain(&refused);
            return Err(refused);
        }
        self.probe_if_due();
        fetched
    }

    /// Asks for a channel that was found before, if it is time to see whether the upstream refuses us and nobody else does.
    fn probe_if_due(&self) {
        let Some(admission) = self.guard.begin_probe() else {
            return;
        };
        let youtube = self.clone();
        // Bounded by the time of a lookup. Ends with its runtime, too: the breaker then hears of silence.
        tokio::spawn(async move {
            let deadline = Instant::now() + youtube.longest();
            let request = LookupRequest {
                purpose: Purpose::Awaited,
                found_before: true,
                caller: Caller::default(),
            };
            // Refused a turn, it is silent.
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
        let turn = self.admit_first(feed, request).instrument(span.clone());
        Box::pin(async move {
            let lookup = turn.await.inspect_err(|failure| tell(&span, Err(failure)))?;
            let lookup: Lookup<'_> = Box::pin(async move {
                let looked_up = lookup.instrument(span.clone()).await;
                tell(&span, looked_up.as_ref());
                looked_up
            });
            Ok(lookup)
        })
    }

    fn joined(&self, feed: Feed, request: LookupRequest) {
        self.queue.joined(feed, request);
    }

    fn time_limit(&self) -> Duration {
        self.longest()
    }

    fn room_for_polls(&self) -> Option<f64> {
        self.queue.room_for_polls()
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "upstream_request_duration",
            "Requests to the upstream, by outcome",
            Unit::Seconds,
            self.requests.clone(),
        );
        self.queue.register(registry);
        self.guard.register(registry);
    }
}

/// A list that may be fetched now. Dropped instead, it gives the turn back.
struct Turn {
    list: List,
    permit: Permit,
    request: LookupRequest,
}

/// Notes in the lookup's `span` what came of it.
fn tell(span: &Span, looked_up: Result<&Channel, &Failure>) {
    span.in_scope(|| match looked_up {
        Ok(found) => tracing::debug!(uploads = found.len(), "looked up"),
        Err(Failure { error, .. }) => tracing::debug!(%error, "lookup failed"),
    });
}

/// Whether a lookup was lost on the way, so that another one may fare better.
fn is_worth_another(failure: &Failure) -> bool {
    match failure.error {
        UpstreamError::Unreachable(_) => true,
        // One that says when to come again means it.
        UpstreamError::Status(500..) => failure.retry_after.is_none(),
        _ => false,
    }
}

/// That there is no such list is no failure: a channel may have no streams, or nothing else.
fn found(looked_up: Result<Channel, Failure>) -> Result<Option<Channel>, Failure> {
    match looked_up {
        Ok(channel) => Ok(Some(channel)),
        Err(failure) if failure.error == UpstreamError::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
