//! The port to a source of feeds: what lookups need of it, and how they can fail.
//!
//! [`crate::youtube`] implements it; tests and the demo have implementations of their own.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

use std::{
    fmt, future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;

use crate::video::{Channel, ChannelId, ChannelName, Kind, ResolvedChannel, Source, Upload};

/// A source of channels' feeds.
pub trait Upstream: Send + Sync {
    /// Looks up the newest uploads of a feed: one request, or two if the first is lost. Videos are in two lists, uploads and streams, each
    /// of which takes as many requests.
    ///
    /// The future is polled by a task of its own, never by a caller, until it completes or its time limit is over. A panic counts as a
    /// failure of this feed.
    fn look_up(&self, feed: Feed, request: LookupRequest) -> Lookup<'_>;

    /// The first half of [`look_up`](Self::look_up): waits for a permit, and returns the rest. Its drop frees the place in the queue.
    ///
    /// # Errors
    ///
    /// If there is no permit in time.
    fn admit(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Lookup<'_>, Failure>> {
        Box::pin(future::ready(Ok(self.look_up(feed, request))))
    }

    /// Notes that another caller waits for the lookup of `feed`, which may still be queued.
    fn joined(&self, _feed: Feed, _request: LookupRequest) {}

    /// Whether there is a budget for such a lookup, and the source does not refuse all requests. See [`Failure::out_of_budget`].
    fn has_budget(&self, _request: &LookupRequest) -> bool {
        false
    }

    /// The longest that a lookup takes, with the wait for a permit: it has failed by then.
    fn time_limit(&self) -> Duration;

    /// The longest that a lookup takes once it has its permit.
    fn admitted_limit(&self) -> Duration {
        self.time_limit()
    }

    /// The polls a second for which there is room beside other lookups, a positive number; `None`: unlimited. Called about once a second.
    fn room_for_polls(&self) -> Option<f64> {
        None
    }

    /// What the source says of itself, for metrics and the status page.
    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }

    /// Registers the source's metrics.
    fn register(&self, _registry: &mut Registry) {}
}

/// What a source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its host, with the port if it is not the scheme's.
    pub host: String,
    /// Its queue and its breaker; `None` if it has none.
    pub queue: Option<QueueStatus>,
    /// The units of the day that are left, and how many there are in a day; `None` if it has no such budget.
    pub units: Option<(u64, u64)>,
    /// Why it refuses every request, if it says more than [`UpstreamError`] does.
    pub refusal: Option<String>,
}

/// A source's queue and breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// The breaker: `closed`, `open` or `probing`.
    pub breaker: &'static str,
    /// Queued lookups.
    pub queued: u64,
    /// Requests sent since the start.
    pub sent: u64,
}

/// How a source is doing, by the lookups that it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceHealth {
    /// What it is.
    pub source: Source,
    /// Its host, with the port if it is not the scheme's.
    pub host: String,
    /// Since when its lookups fail; `None` if the last one was answered, or there was none.
    pub failing_since: Option<SystemTime>,
    /// When the last of them failed. A source that nobody has asked since may work again.
    pub last_failed: Option<SystemTime>,
    /// Why the last of them failed.
    pub error: Option<String>,
    /// The units that are left for today, if it has such a budget.
    pub units_left: Option<u64>,
    /// The units of a day.
    pub units_a_day: Option<u64>,
}

/// A source that is asked when the first one fails.
#[derive(Clone)]
pub struct Fallback {
    /// What it is.
    pub source: Source,
    /// The source.
    pub upstream: Arc<dyn Upstream>,
}

/// A source of older uploads than a feed has.
pub trait UploadPages: Send + Sync {
    /// Loads the page of a list of `feed` that `page` names; without a name the newest. `None`: there is no page of that name. A list that does
    /// not exist is an empty page.
    fn page<'a>(
        &'a self,
        feed: Feed,
        list: List,
        page: Option<&'a str>,
        caller: Caller,
    ) -> BoxFuture<'a, Result<Option<Page>, Failure>>;
}

/// A list of a feed's uploads: see [`Feed::lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// The feed's own.
    Own,
    /// That of a channel's streams, which are videos too.
    Streams,
}

/// A page of uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The channel's name; empty if the page is.
    pub title: String,
    /// Newest first. Their kinds are known only if the feed is of one kind.
    pub uploads: Vec<Upload>,
    /// How many there are in the whole list, if the source says so.
    pub total: Option<u64>,
    /// The number of entries, including those that are not uploads of the channel (any more).
    pub entries: usize,
    /// The name of the page of older ones; `None` if this is the last.
    pub next: Option<String>,
}

/// A source that knows which channel a name stands for.
pub trait NameSource: Send + Sync {
    /// Resolves `name`. [`UpstreamError::NotFound`] and [`UpstreamError::NoSuchChannel`] mean that there is no such name;
    /// `None` means that this source cannot resolve names of this form.
    ///
    /// The future is polled by a task of its own, within a time limit of its own.
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
        caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>>;

    /// The host that is asked, for errors; `None` if callers should not learn it.
    fn host(&self) -> Option<&str> {
        None
    }
}

/// A lookup. Nothing is sent before it is polled, so dropping it before costs nothing.
pub type Lookup<'a> = BoxFuture<'a, Result<Channel, Failure>>;

/// What is looked up: a channel's own feed, or the list of its uploads of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Feed {
    /// The channel.
    pub channel: ChannelId,
    /// The kind of the uploads. `None`: all, as in the channel's own feed.
    pub kind: Option<Kind>,
}

impl Feed {
    /// The lists in which its uploads are: YouTube lists streams separately, but among all uploads.
    #[must_use]
    pub fn lists(self) -> &'static [List] {
        match self.kind {
            Some(Kind::Video) => &[List::Own, List::Streams],
            None | Some(Kind::Short) => &[List::Own],
        }
    }

    /// Its name in keys, messages and tokens.
    #[must_use]
    pub fn tag(self) -> String {
        let kind = match self.kind {
            None => "all",
            Some(Kind::Video) => "video",
            Some(Kind::Short) => "short",
        };
        format!("{}/{kind}", self.channel)
    }

    /// The inverse of [`tag`](Self::tag).
    #[must_use]
    pub fn from_tag(tag: &str) -> Option<Self> {
        let (channel, kind) = tag.split_once('/')?;
        let kind = match kind {
            "all" => None,
            "video" => Some(Kind::Video),
            "short" => Some(Kind::Short),
            _ => return None,
        };
        let channel = channel.parse().ok()?;
        Some(Self { channel, kind })
    }
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

/// What decides when a lookup gets its permit: its purpose and its caller.
#[derive(Clone, Debug)]
pub struct LookupRequest {
    /// Why it is made.
    pub purpose: Purpose,
    /// The channel was found before, so it is not made up.
    pub found_before: bool,
    /// The last snapshot of the feed, if there is one.
    pub known: Option<Arc<Channel>>,
    /// The caller who started it.
    pub caller: Caller,
}

impl LookupRequest {
    /// A lookup of a channel that was never found, without a particular caller.
    #[must_use]
    pub fn of(purpose: Purpose) -> Self {
        Self {
            purpose,
            found_before: false,
            known: None,
            caller: Caller::default(),
        }
    }
}

/// Why a lookup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A caller waits for it.
    Awaited,
    /// It revalidates an entry that was served stale.
    Refresh,
    /// It polls a watched channel.
    Poll,
}

/// The caller of a lookup. Permits go to callers in turn, and to the connections of one caller in turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// A keyed hash of the caller.
    pub id: u64,
    /// A keyed hash of the caller's connection.
    pub connection: u64,
    /// When the answer would be too late. `None`: never.
    pub deadline: Option<tokio::time::Instant>,
}

/// A failed lookup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why it failed.
    pub error: UpstreamError,
    /// When to retry, if the upstream said so.
    pub retry_after: Option<Duration>,
    /// A source was not asked, since this server's budget for it had nothing left for this caller, or it refuses all requests for now. Whether
    /// it can be asked is for [`Upstream::has_budget`] to say, whatever the backoff after this failure.
    pub out_of_budget: bool,
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self {
            error,
            retry_after: None,
            out_of_budget: false,
        }
    }
}

/// Why a lookup failed. The texts are shown to callers: they contain no address and no secret of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// HTTP 404. YouTube also answers it for channels that exist, for hours on most days.
    #[error("the upstream knows no such channel")]
    NotFound,
    /// The channel does not exist, for certain: an API that knows all channels says so.
    #[error("there is no such channel")]
    NoSuchChannel,
    /// HTTP 404 for a channel that was never found, while channels that exist get it too: it may or may not exist.
    #[error(
        "the upstream answers 404 for channels that exist, too; whether this one does cannot be told now"
    )]
    Outage,
    /// HTTP 429, or 403 for several channels: the source refuses this address. No channel is looked up for a while.
    #[error("the upstream refuses to answer (HTTP {0}): too many lookups from this address")]
    RateLimited(u16),
    /// The queue is full, or the permit would come, or did come, too late.
    #[error("the server is overloaded: too many lookups wait for their turn at the upstream")]
    Busy,
    /// Any other HTTP status than 200.
    #[error("the upstream answered HTTP {0}")]
    Status(u16),
    /// No connection, or a broken one.
    #[error("the upstream could not be reached or broke off: {0}")]
    Unreachable(Box<str>),
    /// The lookup took longer than its time limit.
    #[error("the upstream did not answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// A response that is not a feed: HTTP 200 with another body, or a redirect.
    #[error("the upstream's answer is no feed: {0}")]
    Malformed(Box<str>),
    /// A feed that lacks the newest upload and, by its counts, is older than the last success; or an empty one after one that was not. The
    /// last success stays until a second lookup in a row brings such a feed, or for longer if the feed may lag behind another source.
    #[error(
        "the upstream shows an older or an empty feed than before; it is asked again before that is believed"
    )]
    SuspectSnapshot,
    /// A bug in the lookup.
    #[error("the lookup failed by a bug in the server; it is logged there")]
    Panicked,
}

impl UpstreamError {
    /// The HTTP status of the response, if there was one other than 200.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::NotFound | Self::Outage => Some(404),
            Self::RateLimited(status) | Self::Status(status) => Some(*status),
            Self::Busy
            | Self::NoSuchChannel
            | Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Malformed(_)
            | Self::SuspectSnapshot
            | Self::Panicked => None,
        }
    }

    /// Whether it is a condition of this server and says nothing about the channel: waiters get it, but it is not cached.
    #[must_use]
    pub fn is_local_condition(&self) -> bool {
        matches!(self, Self::RateLimited(_) | Self::Busy)
    }

    /// Whether it only waits for confirmation. The lookup itself worked, so watchers get no problem.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        *self == Self::SuspectSnapshot
    }

    /// The heap memory of the value, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Unreachable(text) | Self::Malformed(text) => text.len(),
            Self::NotFound
            | Self::NoSuchChannel
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
