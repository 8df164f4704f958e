//! Every way in which a call can fail: its request is invalid, the server does not carry it out, or its lookup fails.

use std::time::Duration;

use crate::{
    latest::{LookupError, OVERLOAD_PAUSE},
    resolver::ResolveError,
    video::{InvalidChannelId, InvalidName},
};

/// The reason why a call fails. [`status`](super::status) maps it to what the caller receives.
///
/// Callers see these messages. Details that only the operator may know are logged instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request is invalid.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The name of a channel could not be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The lookup or the watch failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// [`Limits::at_once`](super::Limits::at_once) calls are in progress already.
    #[error("the server is overloaded: {0} calls are in progress already")]
    TooManyCalls(usize),
    /// The connection is beyond the limit of connections; such connections are for health checks only.
    #[error(
        "the server is overloaded: it has as many connections as it may, and this one, which is over that, is for health checks only"
    )]
    TooManyConnections,
    /// No more health watches can be opened on this connection.
    #[error(
        "the server is overloaded: of its {0} health watches beside the first of each connection too few are left; watch over a connection of its own, or check"
    )]
    TooManyHealthWatches(usize),
    /// The deadline of the call passed.
    #[error(
        "the deadline passed before the lookup ended; a server completes it, so that asking again finds its answer"
    )]
    Deadline,
    /// The watch reached its deadline, or [`Limits::watch`](super::Limits::watch).
    #[error(
        "the watch has reached its deadline, or the longest time that the server allows; watch again from here"
    )]
    WatchExpired,
    /// The code that handles the call panicked. A panic of a lookup is an [`UpstreamError`](crate::upstream::UpstreamError).
    #[error("the call failed by a bug in the server; it is logged there")]
    Panicked,
}

impl CallError {
    /// How long to wait before a retry, if one can help, where no lookup says it.
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Resolve(error) => error.retry_after(),
            _ => None,
        }
        .unwrap_or(OVERLOAD_PAUSE)
    }
}

/// The reason why a request is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `channel_id` is not a channel ID.
    #[error("channel_id is not a channel ID: {0}")]
    InvalidChannelId(#[from] InvalidChannelId),
    /// `query` does not name a channel.
    #[error("query names no channel: {0}")]
    InvalidQuery(#[from] InvalidName),
    /// `page_size` is negative or not an `int32`.
    #[error(
        "page_size is negative or not a 32-bit integer; expected 1 to 50 (more count as 50), or 0 for the default"
    )]
    InvalidPageSize,
    /// `page_token` is not the token of a page.
    #[error("page_token is not the next_page_token of a page of this channel and kind")]
    InvalidPageToken,
    /// `kind` has an unknown value.
    #[error(
        "kind has the unknown value {0}; expected VIDEO_KIND_UNSPECIFIED (0), VIDEO_KIND_VIDEO (1) or VIDEO_KIND_SHORT (2); in a URL also any, video or short"
    )]
    InvalidKind(Box<str>),
    /// `max_age` is negative or malformed.
    #[error(
        "max_age is negative or malformed; expected a duration of 0 or more, in JSON as seconds, such as 3600s"
    )]
    InvalidMaxAge,
    /// `published_after` is out of range or malformed.
    #[error(
        "published_after is not a valid timestamp; expected a time of the years 1 to 9999, with 0 to 999999999 nanos"
    )]
    InvalidPublishedAfter,
    /// `resume_tokens` has bytes that are not a token, or a token of a channel that is not in the request.
    #[error(
        "resume_tokens has {0}; expected the resume_token of the last message about a channel of this watch"
    )]
    InvalidResumeToken(&'static str),
    /// The header `grpc-timeout` is malformed.
    #[error("the grpc-timeout header is malformed; expected 1 to 8 digits and one of H M S m u n")]
    InvalidTimeout,
    /// The message cannot be decoded.
    #[error("the message is malformed: {0}")]
    MalformedMessage(Box<str>),
    /// The message is larger than the server reads.
    #[error("{0}; send less in one call")]
    MessageTooLarge(Box<str>),
    /// The message is compressed.
    #[error("the message is compressed (grpc-encoding), which is not supported; send it as it is")]
    Compressed,
    /// The query string of a JSON request has an unknown parameter.
    #[error("there is no parameter {0:?}; /openapi.json has those of each path")]
    UnknownParameter(Box<str>),
    /// The path of a JSON request leads nowhere.
    #[error(
        "no such page; there are /v1/channels/{{channel}}/latest-video?kind=&max_age=, /v1/channels/{{channel}}/uploads?kind=&max_age=&page_size=&page_token=, /openapi.json, /livez and /readyz"
    )]
    NoSuchPage,
    /// The method of a JSON request is neither GET nor HEAD.
    #[error("the method is not allowed; expected GET or HEAD")]
    MethodNotAllowed,
    /// `channel_ids` is empty.
    #[error("channel_ids is empty; expected 1 to {0} channel IDs")]
    NoChannels(usize),
    /// `channel_ids` has too many items.
    #[error("channel_ids has {given} channel IDs; expected 1 to {limit}")]
    TooManyChannels {
        /// The number of channel IDs in the request.
        given: usize,
        /// The largest number that is allowed.
        limit: usize,
    },
}
