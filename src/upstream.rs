//! The port to wherever feeds come from: what the use case needs of it, and the ways it can fail.
//!
//! [`crate::youtube`] is the one that serves; tests and the demo bring others.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::video::{Channel, ChannelId};

/// A source of channels' feeds.
pub trait Upstream: Send + Sync {
    /// Looks up a channel's newest uploads: one request upstream.
    ///
    /// The future is driven to its end or to its time limit by a task of its own, never by a caller. If it panics, those who
    /// wait for it get an error and the next caller starts another.
    fn look_up(&self, channel: ChannelId) -> BoxFuture<'_, Result<Channel, UpstreamError>>;
}

/// Why a lookup brought no channel. Meant for callers: it names no address and no secret of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// HTTP 404. YouTube answers it for channels that exist, too, for hours on most days.
    #[error("the upstream knows no such channel")]
    NotFound,
    /// HTTP 404 for a channel never seen, while channels that exist get it too: nobody can tell.
    #[error(
        "the upstream answers 404 for channels that exist, too; whether this one does cannot be told now"
    )]
    Outage,
    /// HTTP 403 or 429: it has had enough of us.
    #[error("the upstream refuses to answer (HTTP {0}): too many lookups from this address")]
    RateLimited(u16),
    /// Any other HTTP status than 200, a redirect too.
    #[error("the upstream answered HTTP {0}")]
    Status(u16),
    /// No connection, or one that broke.
    #[error("the upstream could not be reached or broke off: {0}")]
    Unreachable(Box<str>),
    /// The lookup took longer than its budget.
    #[error("the upstream did not answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// HTTP 200 with something that is no feed.
    #[error("the upstream's answer is no feed: {0}")]
    Malformed(Box<str>),
}

impl UpstreamError {
    /// The HTTP status that the upstream answered, if it answered one that is no 200.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::NotFound | Self::Outage => Some(404),
            Self::RateLimited(status) | Self::Status(status) => Some(*status),
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Malformed(_) => None,
        }
    }

    /// The bytes of memory that it takes beside its own size.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Unreachable(text) | Self::Malformed(text) => text.len(),
            Self::NotFound | Self::Outage | Self::RateLimited(_) | Self::Status(_) | Self::TimedOut(_) => 0,
        }
    }
}
