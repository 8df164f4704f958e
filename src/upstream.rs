//! The port to wherever feeds come from: what the use case needs of it, and the ways it can fail.
//!
//! [`crate::youtube`] is the one that serves; tests and the demo bring others.

use std::{fmt, future, time::Duration};

use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;

use crate::video::{Channel, ChannelId, Kind};

/// A source of channels' feeds.
pub trait Upstream: Send + Sync {
    /// Looks up a feed's newest uploads: one request upstream, or two if the first one is lost. Videos are in two feeds, of videos and
    /// of streams, and so take as many requests for each.
    ///
    /// The future is driven to its end or to its time limit by a task of its own, never by a caller. If it panics, that is a failure
    /// of this feed.
    fn look_up(&self, feed: Feed, request: LookupRequest) -> Lookup<'_>;

    /// The first half of [`look_up`](Self::look_up): waits for its turn, and returns the rest. May be dropped at any time, which gives the
    /// place in the queue up.
    ///
    /// # Errors
    ///
    /// If there is no turn to be had.
    fn admit(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Lookup<'_>, Failure>> {
        Box::pin(future::ready(Ok(self.look_up(feed, request))))
    }

    /// Another caller waits for a lookup of `feed` that may be in the queue still.
    fn joined(&self, _feed: Feed, _request: LookupRequest) {}

    /// What a lookup takes at most: by then it has failed by itself.
    fn time_limit(&self) -> Duration;

    /// How many polls of watched channels a second there is room for just now, beside all else that is looked up: a positive number.
    /// `None`: as many as are wanted. Asked about once a second.
    fn room_for_polls(&self) -> Option<f64> {
        None
    }

    /// Makes what it counts known to whoever reads `registry`.
    fn register(&self, _registry: &mut Registry) {}
}

/// A lookup. Nothing is asked before it is polled: one that is dropped before has cost nothing.
pub type Lookup<'a> = BoxFuture<'a, Result<Channel, Failure>>;

/// What is looked up: a channel's feed, or that of its uploads of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Feed {
    /// Whose uploads.
    pub channel: ChannelId,
    /// Only of this kind. `None`: all, as the channel's own feed has them.
    pub kind: Option<Kind>,
}

impl From<ChannelId> for Feed {
    /// The channel's own feed.
    fn from(channel: ChannelId) -> Self {
        Self { channel, kind: None }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            None => self.channel.fmt(f),
            Some(kind) => write!(f, "{} ({kind}s)", self.channel),
        }
    }
}

/// Why a lookup is made, and for whom: that decides when its turn comes.
#[derive(Clone, Copy, Debug)]
pub struct LookupRequest {
    /// Why it is made.
    pub purpose: Purpose,
    /// The channel was found before, so that it is no made-up one.
    pub found_before: bool,
    /// Who started it.
    pub caller: Caller,
}

impl LookupRequest {
    /// A lookup of a channel that was never found, for nobody in particular.
    #[must_use]
    pub fn of(purpose: Purpose) -> Self {
        Self {
            purpose,
            found_before: false,
            caller: Caller::default(),
        }
    }
}

/// Why a lookup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A caller waits for it.
    Awaited,
    /// It renews an answer that was given stale.
    Refresh,
    /// It is a watched channel's poll.
    Poll,
}

/// Who asks for a lookup. Callers take turns, and so do the connections of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// The caller, as a keyed hash.
    pub id: u64,
    /// One of the caller's connections, likewise.
    pub connection: u64,
    /// When it is too late for an answer. `None`: never.
    pub deadline: Option<tokio::time::Instant>,
}

/// A lookup that brought no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why.
    pub error: UpstreamError,
    /// How long the upstream wants to be left alone, if it said so.
    pub retry_after: Option<Duration>,
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
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
    /// HTTP 429, or 403 for several channels: it has had enough of us. No lookup is made for a while, of whatever channel.
    #[error("the upstream refuses to answer (HTTP {0}): too many lookups from this address")]
    RateLimited(u16),
    /// This lookup's turn would come too late, or did not come in time: as many wait as may, or for as long as they may.
    #[error("the server is overloaded: too many lookups wait for their turn at the upstream")]
    Busy,
    /// Any other HTTP status than 200.
    #[error("the upstream answered HTTP {0}")]
    Status(u16),
    /// No connection, or one that broke.
    #[error("the upstream could not be reached or broke off: {0}")]
    Unreachable(Box<str>),
    /// The lookup took longer than its budget.
    #[error("the upstream did not answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// An answer that is no feed: HTTP 200 with something else, or a redirect.
    #[error("the upstream's answer is no feed: {0}")]
    Malformed(Box<str>),
    /// A feed that lacks the newest upload and is older than the last good answer by its counts, or is empty after one that was not.
    /// The last good answer stays, until another lookup brings the like.
    #[error(
        "the upstream shows an older or an empty feed than before; it is asked again before that is believed"
    )]
    SuspectSnapshot,
    /// A bug in the lookup.
    #[error("the lookup failed by a bug in the server; it is logged there")]
    Panicked,
}

impl UpstreamError {
    /// The HTTP status that the upstream answered, if it answered one that is no 200.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::NotFound | Self::Outage => Some(404),
            Self::RateLimited(status) | Self::Status(status) => Some(*status),
            Self::Busy
            | Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Malformed(_)
            | Self::SuspectSnapshot
            | Self::Panicked => None,
        }
    }

    /// Whether it is a condition of this server and not of the channel: those who wait are told of it, and nothing is remembered.
    #[must_use]
    pub fn is_local_condition(&self) -> bool {
        matches!(self, Self::RateLimited(_) | Self::Busy)
    }

    /// Whether it only waits to be confirmed: the lookup itself worked, so watchers are told of no problem.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        *self == Self::SuspectSnapshot
    }

    /// The bytes of memory that it takes beside its own size.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Unreachable(text) | Self::Malformed(text) => text.len(),
            Self::NotFound
            | Self::Outage
            | Self::RateLimited(_)
            | Self::Busy
            | Self::Status(_)
            | Self::TimedOut(_)
            | Self::SuspectSnapshot
            | Self::Panicked => 0,
        }
    }
}
