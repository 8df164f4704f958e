//! What an HTTP response means: a feed, or how the lookup failed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use reqwest::{Response, StatusCode, header};

use super::{
    body,
    feed::{self, FeedError},
    list::{self, List},
};
use crate::{
    cause::innermost,
    dispatch::breaker::{LONGEST_PAUSE, TOO_MANY_REQUESTS},
    upstream::{Failure, UpstreamError},
    video::{self, Channel, Kind},
};

/// The failure that a status other than 200 means.
pub(super) fn failure(response: &Response) -> Failure {
    let status = response.status();
    Failure {
        retry_after: retry_after(response),
        error: match status {
            StatusCode::NOT_FOUND => UpstreamError::NotFound,
            StatusCode::TOO_MANY_REQUESTS => UpstreamError::RateLimited(status.as_u16()),
            _ if status.is_redirection() => redirect_error(response),
            _ => UpstreamError::Status(status.as_u16()),
        },
    }
}

/// The feed in a response with status 200.
pub(super) async fn read(response: Response, list: List) -> Result<Channel, UpstreamError> {
    let body = body::read(response).await?;
    let malformed = |error: FeedError| UpstreamError::Malformed(video::message(&error.to_string()));
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
        // More than fits.
        Err(_) if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => LONGEST_PAUSE,
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    };
    Some(pause.min(LONGEST_PAUSE))
}

/// Whether the log has the advice already. It is about this address, and as true of every other lookup.
static REDIRECT_IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// A redirect. Where it leads is for the operator's eyes, unless it is YouTube's page for addresses that ask too often.
fn redirect_error(response: &Response) -> UpstreamError {
    let location = response.headers().get(header::LOCATION);
    let location = location
        .and_then(|location| location.to_str().ok())
        .unwrap_or("nowhere");
    let target = response.url().join(location);
    if target.is_ok_and(|target| target.path().starts_with("/sorry/")) {
        return UpstreamError::RateLimited(TOO_MANY_REQUESTS);
    }
    if REDIRECT_IS_LOGGED.swap(true, Ordering::Relaxed) {
        tracing::debug!(location, "the upstream redirects");
    } else {
        tracing::warn!(
            location,
            "the upstream redirects; if that is a consent or login page, feeds are not served to this address without one"
        );
    }
    UpstreamError::Malformed("it is a redirect".into())
}

pub(super) fn unreachable(error: &reqwest::Error) -> UpstreamError {
    UpstreamError::Unreachable(video::message(&innermost(error).to_string()))
}
