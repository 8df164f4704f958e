//! Queries, and how replies are built from cache entries.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    FeedEntry, Latest, LookupError, OVERLOAD_PAUSE, fetcher::FlightRequest, policy::FromCache, seconds,
};
use crate::{
    cache_entry::{Failure, Success},
    clock,
    upstream::{Feed, Purpose, UpstreamError},
    video::{Channel, ChannelId, Kind, Source, Video},
};

/// How long before its deadline a caller is given the last success: enough for most responses to arrive in time.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

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

impl Query {
    /// The list of its uploads, of one kind if it asks for one.
    pub(super) fn feed(&self) -> Feed {
        Feed {
            channel: self.channel,
            kind: self.kind,
        }
    }
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

impl Reply {
    /// Where the answer comes from. An error counts as the feed's.
    #[must_use]
    pub fn source(&self) -> Source {
        let answer = self.outcome.as_ref();
        answer.map_or(Source::Feed, |answer| answer.channel().source())
    }
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

    pub(super) fn shared_channel(&self) -> Arc<Channel> {
        Arc::clone(&self.channel)
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

/// A lookup that a caller had to wait for.
#[derive(Clone, Copy)]
pub(super) struct Miss {
    pub(super) reason: MissReason,
    /// Another caller had started the flight.
    pub(super) collapsed: bool,
}

/// One pass of a query through the cache.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) query: Query,
    /// The feed that is asked: the channel's own, or that of a kind.
    pub(super) feed: Feed,
    pub(super) arrived_at: Instant,
    pub(super) now: Instant,
}

impl Latest {
    /// When the caller of `request` stops waiting for flights, if it can be given the last success then: shortly before its deadline, and
    /// earlier if they may have to ask several sources. A poll waits for its outcome.
    pub(super) fn give_up_at(
        &self,
        entry: Option<&FeedEntry>,
        arrived_at: Instant,
        waits_since: tokio::time::Instant,
        request: &FlightRequest,
    ) -> Option<tokio::time::Instant> {
        self.usable(entry, arrived_at)?;
        let before = |deadline: tokio::time::Instant| {
            let left = deadline.saturating_duration_since(waits_since);
            deadline - DEADLINE_MARGIN.min(left / 2)
        };
        let patience = self.fetcher.fallbacks.patience(&*self.fetcher.upstream);
        let patience = patience.filter(|_| request.purpose == Purpose::Awaited);
        let ends = [
            request.caller.deadline.map(before),
            patience.map(|patience| waits_since + patience),
        ];
        ends.into_iter().flatten().min()
    }

    /// The last success, if a caller who arrived then can be given it without a lookup.
    fn usable<'a>(
        &self,
        entry: Option<&'a FeedEntry>,
        arrived_at: Instant,
    ) -> Option<&'a Success<Arc<Channel>>> {
        let success = entry?.success.as_ref()?;
        (success.age(arrived_at) <= self.policy.usable_for()).then_some(success)
    }

    /// The reply from a cache entry. A `miss` counts only if its flight brought what the reply is made of.
    pub(super) fn reply(&self, cached: &FromCache<'_>, attempt: Attempt, miss: Option<Miss>) -> Reply {
        let Attempt { arrived_at, now, .. } = attempt;
        let miss_at = |at: Instant| miss.filter(|_| at >= arrived_at);
        match *cached {
            FromCache::Answer { success, .. } => {
                let status = cache_status(miss_at(success.at), self.policy.ttl(success, now), None);
                self.reply_from(success, attempt, status)
            }
            FromCache::Fallback(success, failure) => {
                let http_status = failure.error.http_status();
                let status = cache_status(miss_at(failure.at), self.policy.ttl(success, now), http_status);
                self.reply_from(success, attempt, status)
            }
            FromCache::Failure(failure) => self.fail(failure, attempt.feed, miss_at(failure.at), now),
        }
    }

    /// The reply with a cached answer. It is stale if it is older than `fresh_for` and was not looked up since the caller arrived.
    fn reply_from(
        &self,
        success: &Success<Arc<Channel>>,
        attempt: Attempt,
        cache_status: CacheStatus,
    ) -> Reply {
        let (query, arrived_at) = (attempt.query, attempt.arrived_at);
        let (age, stale) = if success.at < arrived_at {
            (
                success.age(attempt.now),
                success.age(arrived_at) > self.policy.fresh_for,
            )
        } else {
            (Duration::ZERO, false)
        };
        let outcome = match success.value.latest(query.kind) {
            Some(upload) => Ok(Answer {
                channel: Arc::clone(&success.value),
                upload,
                fetched: success.time,
                age,
                stale,
            }),
            None => Err(LookupError::NoUploads {
                channel: query.channel,
                kind: query.kind,
            }),
        };
        Reply {
            outcome,
            cache_status,
            retry_after: None,
        }
    }

    fn fail(&self, failure: &Failure<UpstreamError>, feed: Feed, miss: Option<Miss>, now: Instant) -> Reply {
        let left = failure.retry_at.saturating_duration_since(now);
        let error = failure.error.clone();
        Reply {
            outcome: Err(self.fetcher.error_without_answer(error, feed, now)),
            cache_status: cache_status(miss, seconds(left), failure.error.http_status()),
            retry_after: Some(left),
        }
    }

    /// The reply where no flight could be joined, or it ended without an outcome: the cached answer if it is still usable, or else
    /// `error`.
    pub(super) fn reply_without_lookup(
        &self,
        entry: Option<&FeedEntry>,
        mut attempt: Attempt,
        miss: Miss,
        error: LookupError,
    ) -> Reply {
        let status = cache_status(Some(miss), 0, None);
        match self.usable(entry, attempt.arrived_at) {
            Some(success) => {
                attempt.now = clock::now();
                self.reply_from(success, attempt, status)
            }
            None => Reply {
                retry_after: matches!(error, LookupError::Overloaded(_)).then_some(OVERLOAD_PAUSE),
                outcome: Err(error),
                cache_status: status,
            },
        }
    }
}

fn cache_status(miss: Option<Miss>, ttl: i64, http_status: Option<u16>) -> CacheStatus {
    match miss {
        Some(Miss { reason, collapsed }) => CacheStatus::Forwarded {
            reason,
            collapsed,
            status: http_status,
        },
        None => CacheStatus::Hit { ttl },
    }
}
