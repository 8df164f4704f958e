//! Every way in which a lookup or a watch can fail.

use crate::{
    upstream::UpstreamError,
    video::{ChannelId, Kind},
};

/// Every way in which a lookup or a watch can fail. Errors of requests and of calls belong to the layer that reads them.
///
/// Callers see these messages. Details that only the operator may know are logged instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The source does not know the channel.
    #[error("channel {0} was not found")]
    ChannelNotFound(ChannelId),
    /// The channel has no upload of the requested kind.
    #[error("channel {channel} has no {}", kind.map_or("upload".into(), |kind| format!("{kind} among its newest uploads")))]
    NoUploads {
        /// The channel.
        channel: ChannelId,
        /// The requested kind; `None` means any.
        kind: Option<Kind>,
    },
    /// The source failed.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// [`Settings::max_waiters`](super::Settings::max_waiters) callers wait already.
    #[error("the server is overloaded: {0} callers wait for lookups already")]
    Overloaded(usize),
    /// [`Settings::max_watched`](super::Settings::max_watched) channels are watched already.
    #[error("the server is overloaded: {0} channels are watched already, counted once for each watch")]
    TooManyWatched(usize),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl LookupError {
    /// A number from 1 to 7 for the reason of the failure. Part of the format of resume tokens.
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
