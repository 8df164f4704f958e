//! Queries and replies.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::LookupError;
use crate::{
    cache_entry::Success,
    video::{Channel, ChannelId, Kind, Video},
};

/// A query for a channel's newest upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The channel.
    pub channel: ChannelId,
    /// Only uploads of this kind.
    pub kind: Option<Kind>,
    /// The greatest age that the caller accepts; `fresh_for` of the policy by default. Raised to the policy's `min_refetch`.
    pub max_age: Option<Duration>,
}

/// The reply to a [`Query`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// The upload, or the error.
    pub outcome: Result<Answer, LookupError>,
    /// Whether it came from the cache.
    pub cache_status: CacheStatus,
    /// How long to wait before a retry, for a transient failure.
    pub retry_after: Option<Duration>,
}

/// A channel's newest upload.
#[derive(Clone, Debug)]
pub struct Answer {
    channel: Arc<Channel>,
    /// The index of the upload, from [`Channel::latest`].
    upload: usize,
    /// When the channel was looked up.
    pub fetched: SystemTime,
    /// The age, from the same clock reading as the `ttl` of [`CacheStatus::Hit`]; zero if the lookup ended after the caller arrived.
    pub age: Duration,
    /// Whether it is older than `fresh_for` and was not looked up for this query.
    pub stale: bool,
}

impl Answer {
    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The channel's newest upload of the requested kind.
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

/// How the cache handled a query, in the terms of RFC 9211.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// The cache had the reply.
    Hit {
        /// The remaining freshness in seconds; negative for a stale answer.
        ttl: i64,
    },
    /// The caller waited for a lookup, or none could be made.
    Forwarded {
        /// Why the cache was not enough.
        reason: MissReason,
        /// Another caller had started the lookup.
        collapsed: bool,
        /// The upstream's HTTP status, if not 200.
        status: Option<u16>,
    },
}

/// Why the cache was not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// The feed was not cached.
    NotCached,
    /// The entry was stale.
    Stale,
    /// The entry was fresh, but older than the `max_age` of the query.
    Requested,
}

/// The upload that `query` asks for.
pub(super) fn select_upload(
    success: &Success<Arc<Channel>>,
    query: Query,
    age: Duration,
    stale: bool,
) -> Result<Answer, LookupError> {
    let channel = Arc::clone(&success.value);
    let upload = channel.latest(query.kind).ok_or(LookupError::NoUploads {
        channel: query.channel,
        kind: query.kind,
    })?;
    Ok(Answer {
        channel,
        upload,
        fetched: success.time,
        age,
        stale,
    })
}
