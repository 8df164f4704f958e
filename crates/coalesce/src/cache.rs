//! The cached values: moka's future cache, once or twice, and the order of writes.

use std::{
    borrow::Borrow,
    hash::Hash,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use moka::{Expiry, notification::RemovalCause, ops::compute::Op};

use super::{Builder, Retention, builder::Decide};

/// The cached value of each key.
///
/// A key is in only one of the two segments, except for short moments. Its entry in `main` serializes the
/// writers of the key in both segments. Readers look there first.
pub(super) struct Cache<K, V> {
    main: Segment<K, V>,
    low_priority: Option<Segment<K, V>>,
    retention: Option<Decide<K, V, Retention>>,
    next_sequence: AtomicU64,
    removals: Arc<Removals>,
}

type Segment<K, V> = moka::future::Cache<K, Sequenced<V>>;

/// A value, and its place in the order in which flights and writes started.
#[derive(Clone)]
struct Sequenced<V> {
    value: V,
    sequence: u64,
}

/// Counts the entries that moka removed.
#[derive(Debug, Default)]
struct Removals {
    evicted: AtomicU64,
    expired: AtomicU64,
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(builder: Builder<K, V>) -> Self {
        let removals = Arc::default();
        Self {
            main: segment(&builder, builder.max_capacity, &removals),
            low_priority: builder
                .low_priority_capacity
                .map(|capacity| segment(&builder, capacity, &removals)),
            retention: builder.retention,
            next_sequence: AtomicU64::new(0),
            removals,
        }
    }

    /// The place of a flight or a write that starts now.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence.fetch_add(1, Relaxed)
    }

    pub(super) async fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self.get_now(key) {
            Poll::Ready(found) => found,
            Poll::Pending => Box::pin(self.get_later(key)).await,
        }
    }

    /// Polls moka once for each segment. It is pending only if a writer was cancelled halfway.
    ///
    /// moka's future is 700 bytes. Here it lives on the stack; if it were awaited, every waiter's future would
    /// have room for it.
    #[inline]
    fn get_now<Q>(&self, key: &Q) -> Poll<Option<V>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match poll_once(&self.main, key) {
            Poll::Ready(Some(entry)) => Poll::Ready(Some(entry.value)),
            Poll::Ready(None) => match &self.low_priority {
                Some(segment) => poll_once(segment, key).map(|found| Some(found?.value)),
                None => Poll::Ready(None),
            },
            Poll::Pending => Poll::Pending,
        }
    }

    async fn get_later<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let found = match (self.main.get(key).await, &self.low_priority) {
            (Some(found), _) => Some(found),
            (None, Some(segment)) => segment.get(key).await,
            (None, None) => None,
        };
        Some(found?.value)
    }

    /// Caches the result of a flight that started at `sequence`, unless there is a newer value or the flight
    /// is not current any more. Returns the newer one.
    pub(super) async fn put_if_newer(
        &self,
        key: &K,
        value: V,
        sequence: u64,
        is_current: impl Fn() -> bool,
    ) -> V {
        let retention = self.retention(key, &value);
        let mut newer = None;
        self.write(key, |current| {
            if let Some(current) = current.filter(|current| current.sequence > sequence) {
                newer = Some(current.value.clone());
            } else if retention != Retention::Discard && is_current() {
                let value = value.clone();
                return Some((retention, Sequenced { value, sequence }));
            }
            None
        })
        .await;
        newer.unwrap_or(value)
    }

    /// Replaces the value with `change(current)`, as the newest there is; `None` leaves it.
    pub(super) async fn update(&self, key: &K, change: impl FnOnce(Option<&V>) -> Option<V>) {
        self.write(key, |current| {
            let value = change(current.map(|current| &current.value))?;
            let sequence = self.next_sequence();
            Some((self.retention(key, &value), Sequenced { value, sequence }))
        })
        .await;
    }

    fn retention(&self, key: &K, value: &V) -> Retention {
        let retention = self.retention.as_ref();
        retention.map_or(Retention::Keep, |retention| retention(key, value))
    }

    /// Writes `write(current)`; `None` leaves the current value. Writers of a key take turns.
    async fn write(
        &self,
        key: &K,
        write: impl FnOnce(Option<&Sequenced<V>>) -> Option<(Retention, Sequenced<V>)>,
    ) {
        let mut moved_up = None;
        self.main
            .entry_by_ref(key)
            .and_compute_with(async |entry| {
                let other = match (&entry, &self.low_priority) {
                    (None, Some(segment)) => segment.get(key).await.zip(Some(segment)),
                    _ => None,
                };
                let other_value = other.as_ref().map(|(value, _)| value);
                match write(entry.as_ref().map(moka::Entry::value).or(other_value)) {
                    Some((Retention::Discard, _)) | None => Op::Nop,
                    Some((Retention::LowPriority, value)) if entry.is_none() => match &self.low_priority {
                        Some(segment) => {
                            segment.insert(key.clone(), value).await;
                            Op::Nop
                        }
                        None => Op::Put(value),
                    },
                    Some((Retention::Keep | Retention::LowPriority, value)) => {
                        moved_up = other.map(|(_, segment)| segment);
                        Op::Put(value)
                    }
                }
            })
            .await;
        // Not earlier: a reader in between would find neither.
        if let Some(segment) = moved_up {
            segment.invalidate(key).await;
        }
    }

    pub(super) async fn remove(&self, key: &K) {
        self.main
            .entry_by_ref(key)
            .and_compute_with(async |_entry| {
                if let Some(segment) = &self.low_priority {
                    segment.invalidate(key).await;
                }
                Op::Remove
            })
            .await;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, V)> {
        let all = self.segments().flat_map(|segment| segment.iter());
        all.map(|(key, entry)| ((*key).clone(), entry.value))
    }

    pub(super) async fn run_pending_tasks(&self) {
        for segment in self.segments() {
            segment.run_pending_tasks().await;
        }
    }

    pub(super) fn entry_count(&self) -> u64 {
        self.segments().map(moka::future::Cache::entry_count).sum()
    }

    pub(super) fn weighted_size(&self) -> u64 {
        self.segments().map(moka::future::Cache::weighted_size).sum()
    }

    fn segments(&self) -> impl Iterator<Item = &Segment<K, V>> {
        [Some(&self.main), self.low_priority.as_ref()]
            .into_iter()
            .flatten()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.removals.evicted.load(Relaxed)
    }

    pub(super) fn expirations(&self) -> u64 {
        self.removals.expired.load(Relaxed)
    }
}

fn segment<K, V>(builder: &Builder<K, V>, capacity: u64, removals: &Arc<Removals>) -> Segment<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let removals = Arc::clone(removals);
    let mut segment = moka::future::Cache::builder()
        .max_capacity(capacity)
        .eviction_listener(move |_key, _entry, cause| removals.count(cause));
    if let Some(weigher) = builder.weigher.clone() {
        segment = segment.weigher(move |key, entry: &Sequenced<V>| weigher(key, &entry.value));
    }
    if let Some(time_to_live) = builder.time_to_live {
        segment = segment.time_to_live(time_to_live);
    }
    if let Some(lifetime) = builder.expire_after_write.clone() {
        segment = segment.expire_after(ExpireAfterWrite(lifetime));
    }
    segment.build()
}

#[inline]
fn poll_once<K, V, Q>(segment: &Segment<K, V>, key: &Q) -> Poll<Option<Sequenced<V>>>
where
    K: Borrow<Q> + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    Q: Eq + Hash + ?Sized,
{
    pin!(segment.get(key)).poll(&mut Context::from_waker(Waker::noop()))
}

struct ExpireAfterWrite<K, V>(Decide<K, V, Option<Duration>>);

impl<K, V> Expiry<K, Sequenced<V>> for ExpireAfterWrite<K, V> {
    fn expire_after_create(&self, key: &K, entry: &Sequenced<V>, _created_at: Instant) -> Option<Duration> {
        (self.0)(key, &entry.value)
    }

    fn expire_after_update(
        &self,
        key: &K,
        entry: &Sequenced<V>,
        _updated_at: Instant,
        _duration_until_expiry: Option<Duration>,
    ) -> Option<Duration> {
        (self.0)(key, &entry.value)
    }
}

impl Removals {
    fn count(&self, cause: RemovalCause) {
        match cause {
            RemovalCause::Size => self.evicted.fetch_add(1, Relaxed),
            RemovalCause::Expired => self.expired.fetch_add(1, Relaxed),
            RemovalCause::Explicit | RemovalCause::Replaced => return,
        };
    }
}
