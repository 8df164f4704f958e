//! Interprets an HTTP response: a feed, or the failure of a lookup.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use reqwest::{Response, StatusCode, header};

use super::{
    body,
    feed::{self, FeedError},
    list::{self, List},
};
use crate::{
    dispatch::breaker::{MAX_PAUSE, TOO_MANY_REQUESTS},
    upstream::{Failure, UpstreamError},
    video::{self, Channel, Kind},
};

pub(super) fn failure(response: &Response) -> Failure {
    let status = response.status();
    let error = match status {
        StatusCode::NOT_FOUND => UpstreamError::NotFound,
        StatusCode::TOO_MANY_REQUESTS => UpstreamError::RateLimited(status.as_u16()),
        _ if status.is_redirection() => redirect_error(response),
        _ => UpstreamError::Status(status.as_u16()),
    };
    Failure {
        retry_after: retry_after(response).and_then(|value| parse_retry_after(value, SystemTime::now())),
        ..error.into()
    }
}

/// Reads the feed of a response with status 200.
pub(super) async fn read(response: Response, list: List) -> Result<Channel, UpstreamError> {
    let body = body::read(response).await?;
    let malformed = |error: FeedError| UpstreamError::Malformed(video::message(&error.to_string()));
    if list.prefix == Some(list::STREAMS) {
        // A mirror may not know streams and return all uploads: leave out the Shorts.
        let all = feed::parse(&body, list.feed.channel).map_err(malformed)?;
        return Ok(all.only(Kind::Video));
    }
    feed::parse(&body, list.feed).map_err(malformed)
}

fn retry_after(response: &Response) -> Option<&str> {
    response.headers().get(header::RETRY_AFTER)?.to_str().ok()
}

/// Parses a `Retry-After` received at `now`: a number of seconds, or a date.
pub(super) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let pause = if is_number {
        // Too large for a number: the longest pause.
        value.parse().map_or(MAX_PAUSE, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(MAX_PAUSE))
}

/// Whether the redirect was logged as a warning: it concerns the address, so one is enough.
static REDIRECT_IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// The error of a redirect. Its target is logged for the operator, unless it is YouTube's page for addresses that ask too often.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_of_seconds_or_ends_at_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(29_876_128);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (value, expected) in [
            ("0", seconds(0)),
            (" 7 ", seconds(7)),
            ("3600", seconds(3600)),
            ("3601", Some(MAX_PAUSE)),
            ("99999999999999999999", Some(MAX_PAUSE)),
            ("Wed, 21 Oct 2026 07:28:30 GMT", seconds(30)),
            ("Wed, 21 Oct 2026 07:27:30 GMT", seconds(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(MAX_PAUSE)),
            ("", None),
            ("+5", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expected, "{value:?}");
        }
    }
}
