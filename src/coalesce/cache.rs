//! What is known: moka's future cache, in two places, and the order of writes.

use std::{
    hash::Hash,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use moka::{notification::RemovalCause, ops::compute::Op};

use super::Limits;

/// What is to become of a value that a lookup has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is cached.
    Yes,
    /// It is cached in the place for minor values ([`Limits::minor_weight`]), where it pushes out nothing but its like.
    Apart,
    /// Those who wait for it are told, and what was known before stays known.
    No,
}

/// What is known of each key.
///
/// A key is in one of the two places, but for moments. The entry in `main` is the gate through which all writers of a key go, for
/// either place; readers look there first.
pub(super) struct Cache<K, V> {
    main: Entries<K, V>,
    minor: Entries<K, V>,
    judge: fn(&V) -> Keep,
    /// The next place in the order of lookups.
    next_stamp: AtomicU64,
    counts: Arc<Counts>,
}

type Entries<K, V> = moka::future::Cache<K, Stamped<V>>;

/// A value, and its place in the order in which lookups began.
#[derive(Clone)]
struct Stamped<V> {
    value: V,
    stamp: u64,
}

/// The entries that had to go so far.
#[derive(Debug, Default)]
struct Counts {
    evicted: AtomicU64,
    expired: AtomicU64,
}

impl<K, V> Cache<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(limits: &Limits, weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static) -> Self {
        let (counts, weigh) = (Arc::<Counts>::default(), Arc::new(weigh));
        let entries = |weight| {
            let (counts, weigh) = (Arc::clone(&counts), Arc::clone(&weigh));
            moka::future::Cache::builder()
                .max_capacity(weight)
                .weigher(move |key, entry: &Stamped<V>| weigh(key, &entry.value))
                .time_to_live(limits.keep_for)
                .eviction_listener(move |_key, _entry, cause| counts.count(cause))
                .build()
        };
        Self {
            main: entries(limits.weight),
            minor: entries(limits.minor_weight),
            judge: |_value| Keep::Yes,
            next_stamp: AtomicU64::new(0),
            counts,
        }
    }

    pub(super) fn keeping(&mut self, judge: fn(&V) -> Keep) {
        self.judge = judge;
    }

    /// The place of a lookup that begins now.
    pub(super) fn stamp(&self) -> u64 {
        self.next_stamp.fetch_add(1, Relaxed)
    }

    pub(super) async fn get(&self, key: &K) -> Option<V> {
        match self.get_at_once(key) {
            Poll::Ready(found) => found,
            Poll::Pending => Box::pin(self.get_in_time(key)).await,
        }
    }

    /// Polls moka once for each place: it has to wait only where a writer was cancelled halfway.
    ///
    /// Its future is 700 bytes. Here it lives on the stack; awaited, every caller would carry the room for it for as long as it
    /// waits for a flight.
    #[inline]
    fn get_at_once(&self, key: &K) -> Poll<Option<V>> {
        match poll_once(&self.main, key) {
            Poll::Ready(Some(entry)) => Poll::Ready(Some(entry.value)),
            Poll::Ready(None) => poll_once(&self.minor, key).map(|found| Some(found?.value)),
            Poll::Pending => Poll::Pending,
        }
    }

    async fn get_in_time(&self, key: &K) -> Option<V> {
        let found = match self.main.get(key).await {
            Some(found) => Some(found),
            None => self.minor.get(key).await,
        };
        Some(found?.value)
    }

    /// Makes known what a lookup has found that began at `stamp`, unless something newer is known or it is not `wanted` any more. Returns
    /// the newer one.
    pub(super) async fn keep(&self, key: K, value: V, stamp: u64, wanted: impl Fn() -> bool) -> V {
        let keep = (self.judge)(&value);
        let mut newer = None;
        self.write(key, |known| {
            if let Some(known) = known.filter(|known| known.stamp > stamp) {
                newer = Some(known.value.clone());
            } else if keep != Keep::No && wanted() {
                let value = value.clone();
                return Some((keep, Stamped { value, stamp }));
            }
            None
        })
        .await;
        newer.unwrap_or(value)
    }

    /// Makes known what `change` makes of what is known by then, as the newest that there is, unless that is `None`.
    pub(super) async fn update(&self, key: K, change: impl FnOnce(Option<&V>) -> Option<V>) {
        self.write(key, |known| {
            let value = change(known.map(|known| &known.value))?;
            let stamp = self.stamp();
            Some(((self.judge)(&value), Stamped { value, stamp }))
        })
        .await;
    }

    /// Writes what `write` makes of what is known, if that is anything. Writers of a key take turns.
    async fn write(&self, key: K, write: impl FnOnce(Option<&Stamped<V>>) -> Option<(Keep, Stamped<V>)>) {
        let mut was_minor = false;
        self.main
            .entry(key)
            .and_compute_with(async |entry| {
                let minor = match &entry {
                    Some(_) => None,
                    None => self.minor.get(&key).await,
                };
                was_minor = minor.is_some();
                let known = entry.as_ref().map(moka::Entry::value).or(minor.as_ref());
                match write(known) {
                    Some((Keep::Apart, value)) if entry.is_none() => {
                        self.minor.insert(key, value).await;
                        was_minor = false;
                        Op::Nop
                    }
                    Some((Keep::Yes | Keep::Apart, value)) => Op::Put(value),
                    Some((Keep::No, _)) | None => {
                        was_minor = false;
                        Op::Nop
                    }
                }
            })
            .await;
        // Not before: a reader would have found neither.
        if was_minor {
            self.minor.invalidate(&key).await;
        }
    }

    pub(super) async fn remove(&self, key: &K) {
        self.main
            .entry_by_ref(key)
            .and_compute_with(async |_entry| {
                self.minor.invalidate(key).await;
                Op::Remove
            })
            .await;
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (K, V)> {
        let all = self.main.iter().chain(self.minor.iter());
        all.map(|(key, entry)| (*key, entry.value))
    }

    pub(super) async fn tidy(&self) {
        self.main.run_pending_tasks().await;
        self.minor.run_pending_tasks().await;
    }

    pub(super) fn entries(&self) -> u64 {
        self.main.entry_count() + self.minor.entry_count()
    }

    pub(super) fn weight(&self) -> u64 {
        self.main.weighted_size() + self.minor.weighted_size()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.counts.evicted.load(Relaxed)
    }

    pub(super) fn expired(&self) -> u64 {
        self.counts.expired.load(Relaxed)
    }
}

#[inline]
fn poll_once<K, V>(entries: &Entries<K, V>, key: &K) -> Poll<Option<Stamped<V>>>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pin!(entries.get(key)).poll(&mut Context::from_waker(Waker::noop()))
}

impl Counts {
    fn count(&self, cause: RemovalCause) {
        match cause {
            RemovalCause::Size => self.evicted.fetch_add(1, Relaxed),
            RemovalCause::Expired => self.expired.fetch_add(1, Relaxed),
            RemovalCause::Explicit | RemovalCause::Replaced => return,
        };
    }
}
