//! From a [`LookupError`] to what a caller gets: a status code, a reason to switch on, and when to ask again.
//!
//! Callers get three things. The *code* decides what generic middleware does (retry, alert, give up). The *reason* in
//! `google.rpc.ErrorInfo` is for programs; it is part of the contract and never changes its meaning. The *message* is for
//! people, and may change. Nothing of a panic, an address or a configuration is in any of them: that is in the log.

use std::{collections::HashMap, time::Duration};

use http::{HeaderName, Response};
use tonic::{Code, Status, body::Body, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{latest::LookupError, proto::v1::LookupFailure, upstream::UpstreamError};

/// The domain of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "plaque";

/// gRPC's own name for "retry after": clients with a retry policy wait as long (gRFC A6).
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The beginnings of tonic's status messages for a request that it cannot decode: invalid protobuf, a truncated frame, no frame.
///
/// Its messages about compression are not among them: gRPC's specification requires INTERNAL for those.
const UNREADABLE: [&str; 3] = [
    "failed to decode Protobuf message",
    "Unexpected EOF decoding stream",
    "Missing request message",
];

const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The code and reason of an error.
fn classify(error: &LookupError) -> (Code, &'static str) {
    use LookupError as E;
    match error {
        E::InvalidChannelId(_) => (Code::InvalidArgument, "INVALID_CHANNEL_ID"),
        E::InvalidKind(_) => (Code::InvalidArgument, "INVALID_KIND"),
        E::InvalidMaxAge => (Code::InvalidArgument, "INVALID_MAX_AGE"),
        E::InvalidPublishedAfter => (Code::InvalidArgument, "INVALID_PUBLISHED_AFTER"),
        E::InvalidResumeToken(_) => (Code::InvalidArgument, "INVALID_RESUME_TOKEN"),
        E::InvalidTimeout => (Code::InvalidArgument, "INVALID_TIMEOUT"),
        E::MalformedMessage(_) => (Code::InvalidArgument, "MALFORMED_MESSAGE"),
        E::Compressed => (Code::Unimplemented, "COMPRESSED_MESSAGE"),
        E::UnknownParameter(_) => (Code::InvalidArgument, "UNKNOWN_PARAMETER"),
        E::NoChannels(_) => (Code::InvalidArgument, "NO_CHANNELS"),
        E::TooManyChannels { .. } => (Code::InvalidArgument, "TOO_MANY_CHANNELS"),
        E::ChannelNotFound(_) => (Code::NotFound, "CHANNEL_NOT_FOUND"),
        E::NoUploads { .. } => (Code::NotFound, "NO_UPLOADS"),
        E::Upstream(error) => match error {
            UpstreamError::Outage => (Code::Unavailable, "UPSTREAM_OUTAGE"),
            UpstreamError::Panicked => (Code::Internal, "LOOKUP_PANICKED"),
            UpstreamError::RateLimited(_) => (Code::Unavailable, "UPSTREAM_RATE_LIMITED"),
            UpstreamError::Busy => (Code::ResourceExhausted, "OVERLOADED"),
            UpstreamError::TimedOut(_) => (Code::Unavailable, "UPSTREAM_TIMEOUT"),
            UpstreamError::Malformed(_) | UpstreamError::SuspectSnapshot => {
                (Code::Unavailable, "UPSTREAM_MALFORMED")
            }
            UpstreamError::NotFound | UpstreamError::Status(_) | UpstreamError::Unreachable(_) => {
                (Code::Unavailable, "UPSTREAM_ERROR")
            }
        },
        E::Overloaded(_) | E::TooManyCalls(_) | E::TooManyHealthWatches(_) | E::TooManyWatched(_) => {
            (Code::ResourceExhausted, "OVERLOADED")
        }
        // The code that a client sees when its connection is refused.
        E::TooManyConnections => (Code::Unavailable, "TOO_MANY_CONNECTIONS"),
        E::Deadline | E::WatchedLong => (Code::DeadlineExceeded, "DEADLINE"),
        E::CallPanicked => (Code::Internal, "CALL_PANICKED"),
        E::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
    }
}

/// The field of the request that is at fault.
fn bad_field(error: &LookupError) -> Option<&'static str> {
    match error {
        LookupError::InvalidChannelId(_) => Some("channel_id"),
        LookupError::InvalidKind(_) => Some("kind"),
        LookupError::InvalidMaxAge => Some("max_age"),
        LookupError::InvalidPublishedAfter => Some("published_after"),
        LookupError::InvalidResumeToken(_) => Some("resume_tokens"),
        LookupError::NoChannels(_) | LookupError::TooManyChannels { .. } => Some("channel_ids"),
        _ => None,
    }
}

/// When a caller should ask again, if it should: only what may be otherwise the next time is worth another call, and "at once"
/// would be an invitation to a storm.
fn retry(code: Code, retry_after: Option<Duration>) -> Option<Duration> {
    let passes = matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Internal);
    retry_after.filter(|pause| passes && !pause.is_zero())
}

/// The status that tells of `error`, and of when to ask again.
#[must_use]
pub fn from(error: &LookupError, retry_after: Option<Duration>) -> Status {
    let (code, reason) = classify(error);
    let message = error.to_string();
    let retry_after = retry(code, retry_after);

    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if let Some(field) = bad_field(error) {
        details.add_bad_request_violation(field, &message);
    }
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    let mut status = Status::with_error_details(code, message, details);
    if let Some(pause) = retry_after {
        let milliseconds = i32::try_from(pause.as_millis()).unwrap_or(i32::MAX);
        status
            .metadata_mut()
            .insert(PUSHBACK, MetadataValue::from(milliseconds));
    }
    status
}

/// Replaces tonic's response to a request that it cannot decode with a MALFORMED_MESSAGE, and gives that to a compressed one its reason;
/// returns any other `response` unchanged.
///
/// tonic ends such a call before the service sees it, with INTERNAL and no details, as if the server had failed. The message text is the
/// only thing that tells these apart from other INTERNALs. A codec would see the undecodable protobuf, but not the truncated frame.
pub(super) fn explained(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let Some(code) = headers.get(Status::GRPC_STATUS) else {
        return response;
    };
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    match Code::from_bytes(code.as_bytes()) {
        Code::Internal => match Status::from_header_map(headers) {
            Some(status) if UNREADABLE.iter().any(|text| status.message().starts_with(text)) => {
                from(&LookupError::MalformedMessage(status.message().into()), None).into_http()
            }
            _ => response,
        },
        Code::Unimplemented => match headers.get(ACCEPT_ENCODING) {
            // gRPC's specification asks for this header beside the code: what the server does read.
            Some(accepted) => {
                let accepted = accepted.clone();
                response = from(&LookupError::Compressed, None).into_http();
                response.headers_mut().insert(ACCEPT_ENCODING, accepted);
                response
            }
            None => response,
        },
        _ => response,
    }
}

/// The same, as a message within an answer that succeeds.
pub(super) fn failure(error: &LookupError, retry_after: Option<Duration>) -> LookupFailure {
    let (code, reason) = classify(error);
    LookupFailure {
        code: code.into(),
        reason: reason.into(),
        message: error.to_string(),
        retry_after: retry(code, retry_after).and_then(|pause| pause.try_into().ok()),
    }
}
