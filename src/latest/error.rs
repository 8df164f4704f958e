//! Every way in which a call can end without an upload.

use crate::{
    upstream::UpstreamError,
    video::{ChannelId, InvalidChannelId, Kind},
};

/// Every way in which a call can end without an upload.
///
/// Callers see these messages. What only the operator may know is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The request names no channel.
    #[error("channel_id is not a channel ID: {0}")]
    InvalidChannelId(#[from] InvalidChannelId),
    /// The request has a kind that does not exist.
    #[error(
        "kind has the unknown value {0}; expected VIDEO_KIND_UNSPECIFIED (0), VIDEO_KIND_VIDEO (1) or VIDEO_KIND_SHORT (2)"
    )]
    InvalidKind(Box<str>),
    /// The request has an age that cannot be.
    #[error("max_age is negative or malformed; expected a duration of 0 or more, such as 60s")]
    InvalidMaxAge,
    /// The request has a time that cannot be.
    #[error(
        "published_after is not a valid timestamp; expected a time of the years 1 to 9999, with 0 to 999999999 nanos"
    )]
    InvalidPublishedAfter,
    /// The request has a resume token that is none, or of another channel.
    #[error(
        "resume_tokens has {0}; expected the resume_token of the last message about a channel of this watch"
    )]
    InvalidResumeToken(&'static str),
    /// The request has a deadline that cannot be read.
    #[error("the grpc-timeout header is malformed; expected 1 to 8 digits and one of H M S m u n")]
    InvalidTimeout,
    /// The request's message cannot be decoded.
    #[error("the message is malformed: {0}")]
    MalformedMessage(Box<str>),
    /// The request's message is compressed.
    #[error("the message is compressed (grpc-encoding), which is not supported; send it as it is")]
    Compressed,
    /// The request has something that it cannot have.
    #[error("there is no parameter {0:?}; expected kind or max_age")]
    UnknownParameter(Box<str>),
    /// The request names no channel at all.
    #[error("channel_ids is empty; expected 1 to {0} channel IDs")]
    NoChannels(usize),
    /// The request names more channels than may be.
    #[error("channel_ids has {given} channel IDs; expected 1 to {limit}")]
    TooManyChannels {
        /// In the request.
        given: usize,
        /// At most.
        limit: usize,
    },
    /// The upstream knows no such channel.
    #[error("channel {0} was not found")]
    ChannelNotFound(ChannelId),
    /// The channel has nothing to show.
    #[error("channel {channel} has no {}", kind.map_or("upload".into(), |kind| format!("{kind} among its newest uploads")))]
    NoUploads {
        /// Which channel.
        channel: ChannelId,
        /// The kind that was asked for.
        kind: Option<Kind>,
    },
    /// The upstream failed.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// As many callers wait for lookups as may.
    #[error("the server is overloaded: {0} callers wait for lookups already")]
    Overloaded(usize),
    /// As many calls are in progress as may.
    #[error("the server is overloaded: {0} calls are in progress already")]
    TooManyCalls(usize),
    /// As many connections are open as may be. This one is for a probe.
    #[error(
        "the server is overloaded: it has as many connections as it may, and this one, which is over that, is for health checks only"
    )]
    TooManyConnections,
    /// As many health watches are open as may be.
    #[error(
        "the server is overloaded: of its {0} health watches beside the first of each connection too few are left; watch over a connection of its own, or check"
    )]
    TooManyHealthWatches(usize),
    /// As many channels are watched as may be.
    #[error("the server is overloaded: {0} channels are watched already, counted once for each watch")]
    TooManyWatched(usize),
    /// The caller's deadline passed.
    #[error("the deadline passed before the lookup ended; it goes on, and asking again will find its answer")]
    Deadline,
    /// A watch has gone on for as long as it may.
    #[error(
        "the watch has reached its deadline, or the longest time that the server allows; watch again from here"
    )]
    WatchedLong,
    /// A bug, not in a lookup.
    #[error("the call failed by a bug in the server; it is logged there")]
    CallPanicked,
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl LookupError {
    /// The reason why lookups of a channel fail, from 1 to 7. Part of the format of resume tokens.
    pub(super) fn reason_code(&self) -> u8 {
        use UpstreamError::{Malformed, Outage, RateLimited, TimedOut};
        match self {
            Self::ChannelNotFound(_) => 1,
            Self::Upstream(Outage) => 2,
            Self::Upstream(RateLimited(_)) => 3,
            Self::Upstream(TimedOut(_)) => 5,
            Self::Upstream(Malformed(_)) => 6,
            Self::Upstream(_) => 4,
            _ => 7,
        }
    }
}
