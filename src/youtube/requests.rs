//! Sends a request, with metrics and a span.

use prometheus_client::metrics::{family::Family, histogram::Histogram};
use reqwest::{StatusCode, header};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field::Empty};

use super::{YouTube, body, client, feed, list::List, response};
use crate::{
    trace_context,
    upstream::{Failure, UpstreamError},
    video::{self, Channel, ResolvedChannel},
};

pub(super) type Requests = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

impl YouTube {
    /// Sends one request, in a span that follows OpenTelemetry's conventions for HTTP.
    pub(super) async fn send(&self, list: List, resend: Option<u32>) -> Result<Channel, Failure> {
        let mut timer = RequestTimer {
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
            url.full = %list.redacted_url(&self.feeds),
            "error.type" = Empty,
        );
        let fetched = self.request(list).instrument(span.clone()).await;
        timer.outcome = match &fetched {
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

    /// The channel with the legacy name `user`, by its feed.
    pub(super) async fn owner(&self, user: &str) -> Result<ResolvedChannel, Failure> {
        let mut url = self.feeds.clone();
        url.query_pairs_mut().append_pair("user", user);
        let response = self.client.get(url).send().await;
        let response = response.map_err(|error| client::unreachable(&error))?;
        if response.status() != StatusCode::OK {
            return Err(response::failure(&response));
        }
        let body = body::read(response).await?;
        let (id, title) = feed::channel(&body)
            .map_err(|error| UpstreamError::Malformed(video::message(&error.to_string())))?;
        let title = video::message(&title);
        Ok(ResolvedChannel { id, title })
    }

    async fn request(&self, list: List) -> Result<Channel, Failure> {
        let span = Span::current();
        let Some(url) = list.url(&self.feeds) else {
            return Err(UpstreamError::Malformed("the mirror has no lists of one kind".into()).into());
        };
        let mut headers = header::HeaderMap::new();
        trace_context::inject(&span, &mut headers);
        let response = self.client.get(url).headers(headers).send().await;
        let response = response.map_err(|error| client::unreachable(&error))?;
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status == StatusCode::OK {
            return Ok(response::read(response, list).await?);
        }
        Err(response::failure(&response))
    }
}

/// Records the duration and outcome of a request when it is dropped.
struct RequestTimer<'a> {
    requests: &'a Requests,
    begun: Instant,
    /// Initially the outcome of a request that is dropped, when its time is over.
    outcome: &'static str,
}

impl Drop for RequestTimer<'_> {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.requests
            .get_or_create(&[("outcome", self.outcome)])
            .observe(seconds);
    }
}

fn outcome(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::NotFound | UpstreamError::NoSuchChannel | UpstreamError::Outage => "not_found",
        UpstreamError::RateLimited(_) => "rate_limited",
        UpstreamError::Malformed(_) | UpstreamError::SuspectSnapshot => "malformed",
        UpstreamError::TimedOut(_) => "timeout",
        UpstreamError::Busy
        | UpstreamError::Status(_)
        | UpstreamError::Unreachable(_)
        | UpstreamError::Panicked => "error",
    }
}
