//! Questions and what becomes of them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::LookupError;
use crate::{
    cache_entry::Success,
    video::{Channel, ChannelId, Kind, Video},
};

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// Whose upload.
    pub channel: ChannelId,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// The greatest age that will do; by default what the policy calls fresh. Less than the policy's `min_refetch` counts as that.
    pub max_age: Option<Duration>,
}

/// What became of a question, and how.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The upload, or why there is none.
    pub outcome: Result<Answer, LookupError>,
    /// How the reply was made.
    pub made: Made,
    /// When it makes sense to ask again, for a failure that passes.
    pub retry_after: Option<Duration>,
}

/// A channel's newest upload.
#[derive(Clone, Debug)]
pub struct Answer {
    channel: Arc<Channel>,
    /// Which of the channel's uploads, as [`Channel::latest`] has it.
    upload: usize,
    /// When the channel was looked up.
    pub fetched: SystemTime,
    /// Its age, from the same clock reading as the `ttl` of [`Made::Hit`]; zero if the lookup ended after the caller came.
    pub age: Duration,
    /// Older than fresh, and not looked up for this query.
    pub stale: bool,
}

impl Answer {
    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Its newest upload, of the kind that was asked for.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the index is the same channel's")]
    pub fn video(&self) -> Video<'_> {
        self.channel
            .upload(self.upload)
            .expect("the channel has this upload")
    }
}

#[cfg(test)]
impl Answer {
    /// The newest upload of `channel`.
    pub(crate) fn made_up(channel: Channel, fetched: SystemTime, stale: bool) -> Self {
        Self {
            channel: Arc::new(channel),
            upload: 0,
            fetched,
            age: Duration::ZERO,
            stale,
        }
    }
}

/// How a reply was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// From what was known.
    Hit {
        /// How long it stays so, in seconds; below zero: since when it is stale.
        ttl: i64,
    },
    /// By a lookup, or for want of one that succeeded.
    Forwarded {
        /// Why one was needed.
        why: Why,
        /// Another caller had started it.
        collapsed: bool,
        /// The upstream's HTTP status, if it was not 200.
        status: Option<u16>,
    },
}

/// Why a lookup was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing was known.
    Unknown,
    /// What was known was too old.
    Stale,
    /// What was known was fresh, but the caller wanted newer.
    Requested,
}

pub(super) fn select_upload(
    good: &Success<Arc<Channel>>,
    query: Query,
    age: Duration,
    stale: bool,
) -> Result<Answer, LookupError> {
    let channel = Arc::clone(&good.value);
    let upload = channel.latest(query.kind).ok_or(LookupError::NoUploads {
        channel: query.channel,
        kind: query.kind,
    })?;
    Ok(Answer {
        channel,
        upload,
        fetched: good.time,
        age,
        stale,
    })
}
