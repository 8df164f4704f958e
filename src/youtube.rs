//! The upstream adapter: YouTube's public Atom feeds over HTTP.
//!
//! A feed needs no key and tells no lies, but the server in front of it answers 404 for channels that exist, refuses busy
//! addresses for hours, and sends no `Retry-After`, `ETag` or `Last-Modified`. Everything here is bounded: the time of a lookup,
//! the bytes of an answer, the lookups at once and a second.

pub mod feed;
mod list;
mod pacing;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use reqwest::{Certificate, Client, Response, StatusCode, Url, header, redirect};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span, field::Empty};

pub use self::pacing::Pace;
use self::{
    feed::FeedError,
    list::List,
    pacing::{Pacer, Turn, bounded, busy},
};
use crate::{
    cause::innermost,
    metrics::SECONDS,
    trace_context,
    upstream::{Failure, Feed, Upstream, UpstreamError, Urgency},
    video::{Channel, Kind},
};

/// The longest body that is read, after decompression. The largest feed seen has 80 kB; 500 entries of that size have 2.6 MB,
/// but a feed has 15.
const MAX_BODY: usize = 2 << 20;

/// How we introduce ourselves, so that whoever runs the upstream can tell who asks.
const USER_AGENT: &str = concat!("plaque/", env!("CARGO_PKG_VERSION"));

/// Before the second attempt: what refused a connection at this moment may be back in the next.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// YouTube's feeds, or something that serves the same under another address.
pub struct YouTube {
    client: Client,
    feeds: Url,
    /// Of the whole lookup: waiting for its turn, connecting, headers, body, and all that again.
    time_limit: Duration,
    pacer: Arc<Pacer>,
    requests: Requests,
}

/// How long requests took, by what came of them.
type Requests = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

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
        }
    }
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The authorities' certificates are none.
    #[error("--upstream-ca: no certificate in PEM format could be read: {}", .0.as_ref().map_or("the file has none".into(), |error| innermost(error).to_string()))]
    Authorities(Option<reqwest::Error>),
    /// All else.
    #[error(
        "cannot set up TLS for the upstream (are the system's CA certificates installed?): {}",
        innermost(.0)
    )]
    Tls(reqwest::Error),
}

impl YouTube {
    /// An adapter for the feeds that `settings` name.
    ///
    /// # Errors
    ///
    /// If they are at an `https` address and there is no usable certificate store, or the authorities cannot be read.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        // Fails only if a provider is there already, which is then as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            // A redirect leads to a consent page or a login, never to a feed.
            .redirect(redirect::Policy::none())
            .no_proxy();
        if settings.feeds.scheme() == "http" {
            // No certificate will be looked at; a machine without any must not keep us from starting.
            client = client.tls_certs_only([]);
        }
        if let Some(pem) = settings.authorities {
            let authorities =
                Certificate::from_pem_bundle(&pem).map_err(|error| SetupError::Authorities(Some(error)))?;
            if authorities.is_empty() {
                return Err(SetupError::Authorities(None));
            }
            client = client.tls_certs_merge(authorities);
        }
        Ok(Self {
            client: client.build().map_err(SetupError::Tls)?,
            feeds: settings.feeds,
            time_limit: settings.time_limit,
            pacer: Arc::new(Pacer::new(settings.pace)),
            requests: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        })
    }

    /// Videos are what is no Short, and YouTube keeps those that were streamed in a list of their own.
    async fn find(&self, feed: Feed, urgency: Urgency) -> Result<Channel, Failure> {
        let deadline = Instant::now() + self.time_limit;
        if feed.kind != Some(Kind::Video) {
            return self.attempts(List::of(feed), urgency, deadline).await;
        }
        // One after the other: if the first fails, the second need not be asked.
        let videos = found(self.attempts(List::of(feed), urgency, deadline).await)?;
        let streams = found(self.attempts(List::streams(feed), urgency, deadline).await)?;
        match (videos, streams) {
            (Some(videos), Some(streams)) => Ok(videos.merged(&streams)),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) => Err(UpstreamError::NotFound.into()),
        }
    }

    async fn attempts(&self, list: List, urgency: Urgency, deadline: Instant) -> Result<Channel, Failure> {
        let Ok(turn) = timeout_at(deadline, self.pacer.turn(urgency)).await else {
            return Err(busy());
        };
        let mut turn = turn?;
        let fetched = timeout_at(deadline, async {
            let fetched = self.fetch(list, None).await;
            if !fetched.as_ref().is_err_and(is_worth_another) || !turn.again().await {
                return fetched;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            self.fetch(list, Some(1)).await
        });
        match fetched.await {
            Ok(fetched) => settle(turn, fetched),
            // It answered nothing, as far as the breaker is concerned.
            Err(_elapsed) => Err(UpstreamError::TimedOut(self.time_limit).into()),
        }
    }

    /// One request, counted, and in a span by OpenTelemetry's conventions for HTTP.
    async fn fetch(&self, list: List, resend: Option<u32>) -> Result<Channel, Failure> {
        let mut counted = Request {
            requests: &self.requests,
            begun: Instant::now(),
            outcome: "timeout",
        };
        let span = tracing::debug_span!(
            "request",
            otel.name = "GET",
            otel.kind = "client",
            otel.status_code = Empty,
            http.request.method = "GET",
            http.request.resend_count = resend,
            http.response.status_code = Empty,
            server.address = self.feeds.host_str(),
            server.port = self.feeds.port_or_known_default(),
            url.full = %list.public(&self.feeds),
            "error.type" = Empty,
        );
        let fetched = self.request(list).instrument(span.clone()).await;
        counted.outcome = match &fetched {
            Ok(_) => "found",
            Err(Failure { error, .. }) => {
                let status = error.http_status().map(|status| status.to_string());
                span.record("error.type", status.as_deref().unwrap_or("_OTHER"));
                span.record("otel.status_code", "ERROR");
                outcome(error)
            }
        };
        fetched
    }

    async fn request(&self, list: List) -> Result<Channel, Failure> {
        let span = Span::current();
        let mut url = self.feeds.clone();
        list.ask(&mut url);
        let mut headers = header::HeaderMap::new();
        trace_context::pass_on(&span, &mut headers);
        let response = self.client.get(url).headers(headers).send().await;
        let response = response.map_err(|error| unreachable(&error))?;
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status == StatusCode::OK {
            return Ok(read(response, list).await?);
        }
        Err(Failure {
            retry_after: retry_after(&response),
            error: match status {
                StatusCode::NOT_FOUND => UpstreamError::NotFound,
                StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                    UpstreamError::RateLimited(status.as_u16())
                }
                _ if status.is_redirection() => misled(&response),
                _ => UpstreamError::Status(status.as_u16()),
            },
        })
    }
}

impl Upstream for YouTube {
    fn look_up(&self, feed: Feed, urgency: Urgency) -> BoxFuture<'_, Result<Channel, Failure>> {
        let span = tracing::info_span!("lookup", %feed);
        let lookup = async move {
            let outcome = self.find(feed, urgency).await;
            match &outcome {
                Ok(found) => tracing::info!(uploads = found.len(), "looked up"),
                Err(Failure { error, .. }) => tracing::warn!(%error, "lookup failed"),
            }
            outcome
        };
        Box::pin(lookup.instrument(span))
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "upstream_request_duration",
            "Requests to the upstream, by outcome",
            Unit::Seconds,
            self.requests.clone(),
        );
        Pacer::register(&self.pacer, registry);
    }
}

/// A request that is counted when it ends, however it ends.
struct Request<'a> {
    requests: &'a Requests,
    begun: Instant,
    /// That of one that is dropped at the end of its time.
    outcome: &'static str,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.requests
            .get_or_create(&[("outcome", self.outcome)])
            .observe(seconds);
    }
}

/// What came of a request that failed, as metrics call it.
fn outcome(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::NotFound | UpstreamError::Outage => "not_found",
        UpstreamError::RateLimited(_) => "rate_limited",
        UpstreamError::Malformed(_) | UpstreamError::SuspectSnapshot => "malformed",
        UpstreamError::TimedOut(_) => "timeout",
        UpstreamError::Busy | UpstreamError::Status(_) | UpstreamError::Unreachable(_) => "error",
    }
}

/// Tells the breaker what came of a lookup.
fn settle(mut turn: Turn<'_>, fetched: Result<Channel, Failure>) -> Result<Channel, Failure> {
    match fetched {
        Err(Failure {
            error: UpstreamError::RateLimited(status),
            retry_after,
        }) => return Err(turn.refused(status, retry_after)),
        Err(Failure {
            error: UpstreamError::Unreachable(_),
            ..
        }) => {}
        Ok(_) | Err(_) => turn.answered(),
    }
    fetched
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

async fn read(mut response: Response, list: List) -> Result<Channel, UpstreamError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(UpstreamError::Malformed(
                format!("it is longer than {MAX_BODY} bytes").into(),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    let malformed = |error: FeedError| UpstreamError::Malformed(error.to_string().into());
    if list.prefix == Some(list::STREAMS) {
        // A mirror may know no streams, and show all uploads: no Short is one.
        let all = feed::parse(&body, list.feed.channel).map_err(malformed)?;
        return Ok(all.only(Kind::Video));
    }
    feed::parse(&body, list.feed).map_err(malformed)
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    };
    Some(bounded(pause))
}

/// A redirect. Where it leads is for the operator's eyes.
fn misled(response: &Response) -> UpstreamError {
    let location = response.headers().get(header::LOCATION);
    let location = location
        .and_then(|location| location.to_str().ok())
        .unwrap_or("nowhere");
    tracing::warn!(
        location,
        "the upstream redirects; if that is a consent or login page, feeds are not served to this address without one"
    );
    UpstreamError::Malformed("it is a redirect".into())
}

fn unreachable(error: &reqwest::Error) -> UpstreamError {
    UpstreamError::Unreachable(innermost(error).to_string().into())
}
