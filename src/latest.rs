//! The use case: what did this channel upload last?
//!
//! Decides whether what is known will do ([`Policy`]), and asks upstream through the [`Coalescer`] if it will not.

mod policy;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::runtime::Handle;

pub use self::policy::Policy;
use self::policy::Verdict;
use crate::{
    coalesce::{Coalescer, Entry, FlightError, Good},
    upstream::{Upstream, UpstreamError},
    video::{Channel, ChannelId, InvalidChannelId, Kind, Video},
};

/// What is kept of a channel.
type Known = Entry<Arc<Channel>, UpstreamError>;

/// What moka and the entry's `Arc` need beside the entry: key, hash-table slot, and nodes in two queues.
const ENTRY_OVERHEAD: usize = 256;

/// A flight may take this much longer than the upstream's own limit, whose error says more than the flight's.
const FLIGHT_GRACE: Duration = Duration::from_secs(1);

/// Answers what channels uploaded last.
pub struct Latest {
    upstream: Arc<dyn Upstream>,
    policy: Policy,
    coalescer: Coalescer<ChannelId, Arc<Known>>,
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Whose upload.
    pub channel: ChannelId,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// The greatest age that will do; by default what the policy calls fresh.
    pub max_age: Option<Duration>,
}

/// What became of a question, and how.
#[derive(Debug)]
pub struct Reply {
    /// The upload, or why there is none.
    pub outcome: Result<Answer, LookupError>,
    /// How the reply was made.
    pub made: Made,
    /// For a failure that is remembered: when another lookup may be made.
    pub retry_after: Option<Duration>,
}

/// A channel's newest upload.
#[derive(Debug)]
pub struct Answer {
    channel: Arc<Channel>,
    /// Into `channel.uploads`.
    upload: usize,
    /// When the channel was looked up.
    pub fetched: SystemTime,
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
    pub fn video(&self) -> &Video {
        &self.channel.uploads[self.upload]
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
    /// By a lookup.
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

/// Every way in which a call can end without an upload.
///
/// Callers see these messages. What only the operator may know is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The request names no channel.
    #[error("channel_id is not a channel ID: {0}")]
    InvalidChannelId(#[from] InvalidChannelId),
    /// The request has a kind that does not exist.
    #[error("kind has the unknown value {0}; expected 0 (any), 1 (video) or 2 (Short)")]
    InvalidKind(i32),
    /// The request has an age that cannot be.
    #[error("max_age is negative or malformed; expected a duration of 0 or more, such as 60s")]
    InvalidMaxAge,
    /// The request has a deadline that cannot be read.
    #[error("the grpc-timeout header is malformed; expected 1 to 8 digits and one of H M S m u n")]
    InvalidTimeout,
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
    /// The caller's deadline passed.
    #[error("the deadline passed before the lookup ended; it goes on, and asking again will find its answer")]
    Deadline,
    /// A bug.
    #[error("the lookup failed by a bug in the server; it is logged there")]
    Panicked,
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Latest {
    /// Answers from `upstream`, keeping at most `cache_bytes`, with lookups that run on `runtime` and take at most about
    /// `lookup_limit`.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        policy: Policy,
        cache_bytes: u64,
        lookup_limit: Duration,
        runtime: Handle,
    ) -> Self {
        Self {
            upstream,
            policy,
            coalescer: Coalescer::new(
                cache_bytes,
                |_channel, known: &Arc<Known>| weight(known),
                lookup_limit + FLIGHT_GRACE,
                runtime,
            ),
        }
    }

    /// Answers `query`. May be dropped at any time: a lookup that it started goes on.
    pub async fn get(&self, query: Query) -> Reply {
        let asked = Instant::now();
        let mut known = self.coalescer.known(&query.channel).await;
        let mut trip = None;
        // Comes round once for a lookup. Again only if it joined a flight that found an answer new enough for whoever started
        // it, but not for this query.
        loop {
            let now = Instant::now();
            match self.policy.judge(known.as_deref(), query.max_age, asked, now) {
                Verdict::Answer(good) => {
                    return Reply {
                        outcome: pick(
                            good,
                            query,
                            good.at < asked && good.age(now) > self.policy.fresh_for,
                        ),
                        made: made(trip, good.at >= asked, self.policy.ttl(good, now), None),
                        retry_after: None,
                    };
                }
                Verdict::Refuse(failed) => {
                    let left = failed.retry_at.saturating_duration_since(now);
                    return Reply {
                        made: made(
                            trip,
                            failed.at >= asked,
                            seconds(left),
                            failed.error.http_status(),
                        ),
                        outcome: Err(refusal(failed.error.clone(), query.channel)),
                        retry_after: Some(left),
                    };
                }
                Verdict::LookUp(why) => {
                    let (upstream, policy) = (Arc::clone(&self.upstream), self.policy);
                    let waiter = self.coalescer.join(query.channel, move |known| {
                        look_up(upstream, policy, query, asked, known)
                    });
                    trip.get_or_insert((why, waiter.collapsed()));
                    match waiter.outcome().await {
                        Ok(outcome) => known = Some(outcome),
                        Err(error) => {
                            return Reply {
                                outcome: Err(torn(error)),
                                made: made(trip, true, 0, None),
                                retry_after: None,
                            };
                        }
                    }
                }
            }
        }
    }

    /// The number of lookups in progress.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.coalescer.flights()
    }
}

/// What a flight does. Owned by the flight's task; holds nothing of the caller's.
async fn look_up(
    upstream: Arc<dyn Upstream>,
    policy: Policy,
    query: Query,
    asked: Instant,
    known: Option<Arc<Known>>,
) -> Arc<Known> {
    if let Some(known) = &known
        && !policy
            .judge(Some(known), query.max_age, asked, Instant::now())
            .is_look_up()
    {
        return Arc::clone(known);
    }
    let outcome = upstream.look_up(query.channel).await;
    let now = Instant::now();
    Arc::new(match outcome {
        Ok(channel) => Entry::succeeded(Arc::new(channel), now, SystemTime::now()),
        Err(error) => {
            let good = known.and_then(|known| known.good.clone());
            Entry::failed(good, error, now, policy.negative_for)
        }
    })
}

fn pick(good: &Good<Arc<Channel>>, query: Query, stale: bool) -> Result<Answer, LookupError> {
    let channel = Arc::clone(&good.value);
    let upload = channel.latest(query.kind).ok_or(LookupError::NoUploads {
        channel: query.channel,
        kind: query.kind,
    })?;
    Ok(Answer {
        channel,
        upload,
        fetched: good.time,
        stale,
    })
}

fn made(trip: Option<(Why, bool)>, by_lookup: bool, ttl: i64, status: Option<u16>) -> Made {
    match trip {
        Some((why, collapsed)) if by_lookup => Made::Forwarded {
            why,
            collapsed,
            status,
        },
        _ => Made::Hit { ttl },
    }
}

fn refusal(error: UpstreamError, channel: ChannelId) -> LookupError {
    match error {
        UpstreamError::NotFound => LookupError::ChannelNotFound(channel),
        error => LookupError::Upstream(error),
    }
}

fn torn(error: FlightError) -> LookupError {
    match error {
        FlightError::Panicked => LookupError::Panicked,
        FlightError::TimedOut(limit) => LookupError::Upstream(UpstreamError::TimedOut(limit)),
        FlightError::Abandoned => LookupError::ShuttingDown,
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn weight(known: &Known) -> u32 {
    let channel = known.good.as_ref().map_or(0, |good| good.value.weight());
    u32::try_from(ENTRY_OVERHEAD + size_of::<Known>() + channel).unwrap_or(u32::MAX)
}
