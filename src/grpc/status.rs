//! Maps a [`CallError`] to a gRPC status: code, reason, message and retry information.
//!
//! The *code* is for generic middleware (retry, alert, give up). The *reason* in `google.rpc.ErrorInfo` is for programs; it is part of
//! the contract and never changes its meaning. The *message* is for people, and may change. None of them has details of a panic, an
//! address or the configuration; those are logged instead.

use std::{collections::HashMap, time::Duration};

use http::{HeaderName, Response};
use prost::Message as _;
use tonic::{Code, Status, body::Body, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

use super::{CallError, RequestError};
use crate::{latest::LookupError, proto::v1::LookupFailure, resolver::ResolveError, upstream::UpstreamError};

/// gRPC's header for "retry after", which clients with a retry policy obey (gRFC A6).
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The beginnings of tonic's status messages for a request that it cannot decode: invalid protobuf, a truncated frame, no frame.
///
/// Its messages about compression are not among them: gRPC's specification requires INTERNAL for those.
const UNDECODABLE: [&str; 3] = [
    "failed to decode Protobuf message",
    "Unexpected EOF decoding stream",
    "Missing request message",
];

/// The message of tonic's gRPC-Web layer, with INTERNAL, for a request whose connection ended.
const UNREAD: &str = "tonic-web: error reading a body from connection";

const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The code and reason of an error.
fn classify(error: &CallError) -> (Code, &'static str) {
    match error {
        CallError::Request(error) => classify_request(error),
        CallError::Lookup(error) => classify_lookup(error),
        CallError::Resolve(error) => classify_resolve(error),
        CallError::TooManyCalls(_) | CallError::TooManyHealthWatches(_) => {
            (Code::ResourceExhausted, "OVERLOADED")
        }
        // The code that a client sees when its connection is refused.
        CallError::TooManyConnections => (Code::Unavailable, "TOO_MANY_CONNECTIONS"),
        CallError::Deadline | CallError::WatchExpired => (Code::DeadlineExceeded, "DEADLINE"),
        CallError::Panicked => (Code::Internal, "CALL_PANICKED"),
    }
}

fn classify_request(error: &RequestError) -> (Code, &'static str) {
    use RequestError as E;
    let reason = match error {
        E::InvalidChannelId(_) => "INVALID_CHANNEL_ID",
        E::InvalidQuery(_) => "INVALID_QUERY",
        E::InvalidPageSize | E::InvalidPageToken => "INVALID_PAGE",
        E::InvalidKind(_) => "INVALID_KIND",
        E::InvalidMaxAge => "INVALID_MAX_AGE",
        E::InvalidPublishedAfter => "INVALID_PUBLISHED_AFTER",
        E::InvalidResumeToken(_) => "INVALID_RESUME_TOKEN",
        E::InvalidTimeout => "INVALID_TIMEOUT",
        E::MalformedMessage(_) => "MALFORMED_MESSAGE",
        E::UnknownParameter(_) => "UNKNOWN_PARAMETER",
        E::NoChannels(_) => "NO_CHANNELS",
        E::TooManyChannels { .. } => "TOO_MANY_CHANNELS",
        E::MessageTooLarge(_) => return (Code::OutOfRange, "MESSAGE_TOO_LARGE"),
        E::Compressed => return (Code::Unimplemented, "COMPRESSED_MESSAGE"),
        E::NoSuchPage => return (Code::NotFound, "NO_SUCH_PAGE"),
        E::MethodNotAllowed => return (Code::Unimplemented, "METHOD_NOT_ALLOWED"),
    };
    (Code::InvalidArgument, reason)
}

fn classify_resolve(error: &ResolveError) -> (Code, &'static str) {
    match error {
        ResolveError::NotFound(_) => (Code::NotFound, "HANDLE_NOT_FOUND"),
        ResolveError::Upstream(failure, _) => classify_upstream(&failure.error),
        ResolveError::Overloaded(_) => (Code::ResourceExhausted, "OVERLOADED"),
        ResolveError::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
    }
}

fn classify_lookup(error: &LookupError) -> (Code, &'static str) {
    use LookupError as E;
    match error {
        E::ChannelNotFound(_) => (Code::NotFound, "CHANNEL_NOT_FOUND"),
        E::NoUploads { .. } => (Code::NotFound, "NO_UPLOADS"),
        E::Upstream(error) => classify_upstream(error),
        E::Overloaded(_) | E::TooManyWatched(_) => (Code::ResourceExhausted, "OVERLOADED"),
        E::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
    }
}

fn classify_upstream(error: &UpstreamError) -> (Code, &'static str) {
    use UpstreamError as E;
    match error {
        E::NoSuchChannel => (Code::NotFound, "CHANNEL_NOT_FOUND"),
        E::Outage => (Code::Unavailable, "UPSTREAM_OUTAGE"),
        E::Panicked => (Code::Internal, "LOOKUP_PANICKED"),
        E::RateLimited(_) => (Code::Unavailable, "UPSTREAM_RATE_LIMITED"),
        E::Busy => (Code::ResourceExhausted, "OVERLOADED"),
        E::TimedOut(_) => (Code::Unavailable, "UPSTREAM_TIMEOUT"),
        E::Malformed(_) | E::SuspectSnapshot => (Code::Unavailable, "UPSTREAM_MALFORMED"),
        E::NotFound | E::Status(_) | E::Unreachable(_) => (Code::Unavailable, "UPSTREAM_ERROR"),
    }
}

/// The reason in the errors of callers who get no answer because of `error`.
#[must_use]
pub fn reason(error: &UpstreamError) -> &'static str {
    classify_upstream(error).1
}

/// The request field that is invalid.
fn bad_field(error: &CallError) -> Option<&'static str> {
    let CallError::Request(error) = error else {
        return None;
    };
    match error {
        RequestError::InvalidChannelId(_) => Some("channel_id"),
        RequestError::InvalidQuery(_) => Some("query"),
        RequestError::InvalidPageSize => Some("page_size"),
        RequestError::InvalidPageToken => Some("page_token"),
        RequestError::InvalidKind(_) => Some("kind"),
        RequestError::InvalidMaxAge => Some("max_age"),
        RequestError::InvalidPublishedAfter => Some("published_after"),
        RequestError::InvalidResumeToken(_) => Some("resume_tokens"),
        RequestError::NoChannels(_) | RequestError::TooManyChannels { .. } => Some("channel_ids"),
        _ => None,
    }
}

/// How long to wait before a retry, given the pause that the failed lookup asks for. `None` where a retry cannot help, and for a pause of
/// zero: an immediate retry of every caller would be a storm.
fn retry_after(code: Code, pause: Option<Duration>) -> Option<Duration> {
    let is_transient = matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Internal);
    pause.filter(|pause| is_transient && !pause.is_zero())
}

/// What callers learn of an error.
#[derive(Clone)]
pub(super) struct Report {
    pub(super) code: Code,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The request field that is invalid.
    pub(super) field: Option<&'static str>,
    /// How long to wait before a retry.
    pub(super) retry_after: Option<Duration>,
}

impl Report {
    /// The domain of every `google.rpc.ErrorInfo`.
    pub(super) const DOMAIN: &str = "plaque";

    pub(super) fn new(error: &CallError, pause: Option<Duration>) -> Self {
        let (code, reason) = classify(error);
        Self {
            code,
            reason,
            message: error.to_string(),
            field: bad_field(error),
            retry_after: retry_after(code, pause),
        }
    }

    pub(super) fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason, Self::DOMAIN, HashMap::new());
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, &self.message);
        }
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

/// The status of a failed call, with the pushback that tells clients how long to wait before a retry.
#[must_use]
pub fn from(error: impl Into<CallError>, pause: Option<Duration>) -> Status {
    let report = Report::new(&error.into(), pause);
    let retry_after = report.retry_after;
    let mut status = report.into_status();
    if let Some(retry_after) = retry_after {
        let milliseconds = i32::try_from(retry_after.as_millis()).unwrap_or(i32::MAX);
        status
            .metadata_mut()
            .insert(PUSHBACK, MetadataValue::from(milliseconds));
    }
    status
}

/// Adds the reason to tonic's own errors: MALFORMED_MESSAGE for a request that it cannot decode, MESSAGE_TOO_LARGE for one that it does not
/// read, COMPRESSED_MESSAGE for a compressed one. A request whose connection ended becomes CANCELLED. Returns any other `response` unchanged.
///
/// tonic ends such a call before the service sees it, without details; an undecodable one with INTERNAL, as if the server had failed. Only
/// the message text distinguishes these from other INTERNALs. A codec would see the undecodable protobuf, but not the truncated frame.
pub(super) fn add_reason(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let Some(code) = headers.get(Status::GRPC_STATUS) else {
        return response;
    };
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    match Code::from_bytes(code.as_bytes()) {
        Code::Internal => match Status::from_header_map(headers) {
            Some(status) if UNDECODABLE.iter().any(|text| status.message().starts_with(text)) => {
                from(RequestError::MalformedMessage(status.message().into()), None).into_http()
            }
            Some(status) if status.message() == UNREAD => connection_ended(),
            _ => response,
        },
        Code::OutOfRange => {
            let status = Status::from_header_map(headers);
            let message = status.map_or_else(String::new, |status| status.message().to_owned());
            from(RequestError::MessageTooLarge(message.into()), None).into_http()
        }
        // tonic's code for a request that could not be read.
        Code::Unknown => connection_ended(),
        Code::Unimplemented => match headers.get(ACCEPT_ENCODING) {
            // gRPC's specification requires this header beside the code: the encodings that the server accepts.
            Some(accepted) => {
                let accepted = accepted.clone();
                response = from(RequestError::Compressed, None).into_http();
                response.headers_mut().insert(ACCEPT_ENCODING, accepted);
                response
            }
            None => response,
        },
        _ => response,
    }
}

/// Nobody receives this response, but the call is counted by its code.
fn connection_ended() -> Response<Body> {
    Status::cancelled("the connection ended before the request was read").into_http()
}

/// The same error as a part of a successful response: one channel of a batch, or an event of a watch.
pub(super) fn lookup_failure(error: &CallError, pause: Option<Duration>) -> LookupFailure {
    let report = Report::new(error, pause);
    LookupFailure {
        code: report.code.into(),
        reason: report.reason.into(),
        message: report.message.clone(),
        retry_after: report.retry_after.and_then(|pause| pause.try_into().ok()),
        status: pb::Status::decode(report.into_status().details()).ok(),
    }
}
