//! The settings of a coalescer.

use std::{fmt, hash::Hash, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{Coalescer, span::SpanMaker};

/// The default limit of a flight: longer than most clients wait for an answer.
const FLIGHT_TIMEOUT: Duration = Duration::from_secs(30);

/// The default limit of waiting callers: about 30 MB with their tasks.
const MAX_WAITERS: usize = 100_000;

/// A function of a value that is about to be cached.
pub(crate) type Decide<K, V, T> = Arc<dyn Fn(&K, &V) -> T + Send + Sync>;

/// Whether and where a value is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It is cached.
    Keep,
    /// It is cached, with a [capacity of its own](Builder::low_priority_capacity), where it can evict only
    /// values like it. Without that capacity, the same as [`Keep`](Self::Keep).
    ///
    /// A key that has a value in the main capacity stays there.
    LowPriority,
    /// It is not cached. Waiters get it, and the value that was cached before stays.
    Discard,
}

/// Builds a [`Coalescer`]; made by [`Coalescer::builder`].
///
/// ```
/// use std::time::Duration;
/// use coalesce::Coalescer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let pages = Coalescer::<String, Vec<u8>>::builder(64 << 20) // bytes, as the weigher counts them
///     .weigher(|url, page| u32::try_from(url.len() + page.len()).unwrap_or(u32::MAX))
///     .time_to_live(Duration::from_secs(3600))
///     .flight_timeout(Duration::from_secs(10))
///     .max_waiters(10_000)
///     .build();
/// # assert_eq!(pages.get("https://example.com").await, None);
/// # }
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<K, V> {
    pub(crate) max_capacity: u64,
    pub(crate) low_priority_capacity: Option<u64>,
    pub(crate) weigher: Option<Decide<K, V, u32>>,
    pub(crate) retention: Option<Decide<K, V, Retention>>,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) expire_after_write: Option<Decide<K, V, Option<Duration>>>,
    pub(crate) flight_timeout: Option<Duration>,
    pub(crate) max_waiters: usize,
    pub(crate) runtime: Option<Handle>,
    pub(crate) span_maker: SpanMaker,
}

impl<K, V> Builder<K, V> {
    pub(crate) fn new(max_capacity: u64) -> Self {
        Self {
            max_capacity,
            low_priority_capacity: None,
            weigher: None,
            retention: None,
            time_to_live: None,
            expire_after_write: None,
            flight_timeout: Some(FLIGHT_TIMEOUT),
            max_waiters: MAX_WAITERS,
            runtime: None,
            span_maker: SpanMaker::default(),
        }
    }

    /// Sets the weight of an entry, in the unit of the capacity. By default every entry weighs 1.
    ///
    /// Count what the key, the value and the cache itself take if the capacity is in bytes.
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> u32 + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Sets which values are cached, and where. By default all are [kept](Retention::Keep).
    pub fn retention(mut self, retention: impl Fn(&K, &V) -> Retention + Send + Sync + 'static) -> Self {
        self.retention = Some(Arc::new(retention));
        self
    }

    /// Reserves a capacity for values that are worth little, in addition to the main one: see [`Retention::LowPriority`].
    pub fn low_priority_capacity(mut self, capacity: u64) -> Self {
        self.low_priority_capacity = Some(capacity);
        self
    }

    /// Expires entries this long after they were last written. By default entries stay until they are evicted.
    ///
    /// moka allows at most 1,000 years: [`build`](Self::build) panics beyond.
    pub fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = Some(time_to_live);
        self
    }

    /// Sets a time to live for single entries, counted from their last write; `None` for those that have none. Where
    /// [`time_to_live`](Self::time_to_live) is set as well, the shorter one counts.
    ///
    /// A hit costs more with it, since moka looks for the expiration of each entry.
    pub fn expire_after_write(
        mut self,
        lifetime: impl Fn(&K, &V) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.expire_after_write = Some(Arc::new(lifetime));
        self
    }

    /// Limits the time of a flight; `None` for no limit. 30 s by default.
    ///
    /// A flight that hangs holds up its key, since no caller ends it.
    pub fn flight_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.flight_timeout = timeout.into();
        self
    }

    /// Limits the callers that wait for flights at one time, over all keys. 100,000 by default. One more gets
    /// [`Overloaded`](super::Overloaded) at once.
    pub fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.max_waiters = max_waiters;
        self
    }

    /// Sets the runtime that flights run on. By default, each runs on that of the caller that starts it.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets how the span of a flight is made, from the ID of the caller's span; `None` for a flight
    /// without waiters, as that of [`refresh`](Coalescer::refresh). By default it is `debug_span!("flight")`
    /// with the target `coalesce`.
    ///
    /// If the flight fails, the fields `otel.status_code` and `otel.status_description` are recorded, which
    /// tracing-opentelemetry reads, as far as the span has them.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// use tracing::field::Empty;
    ///
    /// let cache = coalesce::Coalescer::<u32, u32>::builder(100)
    ///     .make_span_with(|parent| {
    ///         tracing::info_span!(parent: parent, "fetch", otel.status_code = Empty, otel.status_description = Empty)
    ///     })
    ///     .build();
    /// ```
    #[cfg(feature = "tracing")]
    pub fn make_span_with(mut self, make_span: fn(Option<tracing::Id>) -> tracing::Span) -> Self {
        self.span_maker = SpanMaker(make_span);
        self
    }
}

impl<K, V> Builder<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Builds the coalescer. Needs no runtime.
    ///
    /// # Panics
    ///
    /// If [`time_to_live`](Self::time_to_live) is more than 1,000 years.
    #[must_use]
    pub fn build(self) -> Coalescer<K, V> {
        Coalescer::from_builder(self)
    }
}

impl<K, V> fmt::Debug for Builder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("max_capacity", &self.max_capacity)
            .field("low_priority_capacity", &self.low_priority_capacity)
            .field("time_to_live", &self.time_to_live)
            .field("flight_timeout", &self.flight_timeout)
            .field("max_waiters", &self.max_waiters)
            .finish_non_exhaustive()
    }
}
