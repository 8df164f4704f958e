//! The caches that are measured, each behind the same two questions.
//!
//! Every [`Peer::ask`] is as small as its library lets it be: what it costs beyond the library's own future is the key, which
//! each caller has, and nothing else.

#![expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps twice what it gets, and bytes are measured here"
)]

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use coalesce::Coalescer;
use futures_util::FutureExt as _;
use tokio::{runtime::Handle, sync::broadcast};

/// As large as the key of plaque, for which this was made.
pub type Key = [u8; 24];

/// A pointer, cloned for every caller.
pub type Value = Arc<u64>;

/// More than are ever used: nothing is evicted.
const ENTRIES: u32 = 1 << 20;

/// Longer than any run.
const KEEP_FOR: Duration = Duration::from_hours(7 * 24);

/// The caller was told that the lookup failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

/// The `number`th key.
pub fn key(number: u64) -> Key {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

/// Coalesces the lookups of many callers.
pub trait Peer: Send + Sync + 'static {
    const NAME: &'static str;

    /// With lookups on `runtime`, if it runs them on a runtime at all.
    fn new(runtime: &Handle) -> Self;

    /// Gets what is cached for `key`, or else what `lookup` brings, which somebody else may have begun.
    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static;
}

/// Keeps what the lookups brought.
pub trait Cached: Peer {
    /// What is cached for `key`.
    fn cached(&self, key: &Key) -> impl Future<Output = Option<Value>> + Send;
}

pub struct Coalesce(pub Coalescer<Key, Value>);

impl Peer for Coalesce {
    const NAME: &'static str = "coalesce";

    fn new(runtime: &Handle) -> Self {
        let builder = Coalescer::builder(ENTRIES.into())
            .low_priority_capacity(ENTRIES.into())
            .weigher(|_key, _value| 1)
            .time_to_live(KEEP_FOR)
            .runtime(runtime.clone());
        Self(builder.build())
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        async move {
            if let Some(value) = self.0.get(&key).await {
                return Ok(value);
            }
            let waiter = self
                .0
                .join(key, |_context| lookup())
                .map_err(|_overloaded| Failed)?;
            waiter.outcome().await.map_err(|_flight| Failed)
        }
    }
}

impl Cached for Coalesce {
    fn cached(&self, key: &Key) -> impl Future<Output = Option<Value>> + Send {
        self.0.get(key)
    }
}

pub struct Moka(pub moka::future::Cache<Key, Value>);

impl Moka {
    /// Configured as the coalescer's: weighed, and with a time to live, which every `get` has to look at.
    pub fn configured_alike() -> Self {
        let builder = moka::future::Cache::builder()
            .max_capacity(ENTRIES.into())
            .weigher(|_key, _value| 1)
            .time_to_live(KEEP_FOR);
        Self(builder.build())
    }
}

impl Peer for Moka {
    const NAME: &'static str = "moka";

    fn new(_runtime: &Handle) -> Self {
        Self(moka::future::Cache::new(ENTRIES.into()))
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        let answer = self.0.try_get_with(key, lookup().map(Ok::<_, Infallible>));
        answer.map(|answer| answer.map_err(|_error| Failed))
    }
}

impl Cached for Moka {
    fn cached(&self, key: &Key) -> impl Future<Output = Option<Value>> + Send {
        self.0.get(key)
    }
}

/// moka with each caller's question in a task of its own: so a flight goes on when the caller that began it goes away, as the coalescer's
/// do, and a panic is the task's.
pub struct SpawnedMoka {
    cache: moka::future::Cache<Key, Value>,
    runtime: Handle,
}

impl Peer for SpawnedMoka {
    const NAME: &'static str = "moka, spawned";

    fn new(runtime: &Handle) -> Self {
        Self {
            cache: moka::future::Cache::new(ENTRIES.into()),
            runtime: runtime.clone(),
        }
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        async move {
            if let Some(value) = self.cache.get(&key).await {
                return Ok(value);
            }
            let cache = self.cache.clone();
            let asked = self.runtime.spawn(async move {
                let lookup = async move { Ok::<_, Infallible>(lookup().await) };
                cache.try_get_with(key, lookup).await
            });
            let answer = asked.await.map_err(|_panicked| Failed)?;
            answer.map_err(|_error| Failed)
        }
    }
}

pub struct Foyer(foyer::Cache<Key, Value>);

impl Peer for Foyer {
    const NAME: &'static str = "foyer";

    fn new(_runtime: &Handle) -> Self {
        let entries = usize::try_from(ENTRIES).expect("32 bits fit");
        Self(foyer::CacheBuilder::new(entries).build())
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        let answer = self.0.get_or_fetch(&key, || lookup().map(Ok::<_, Infallible>));
        answer.map(|answer| match answer {
            Ok(entry) => Ok(Arc::clone(&entry)),
            Err(_error) => Err(Failed),
        })
    }
}

impl Cached for Foyer {
    fn cached(&self, key: &Key) -> impl Future<Output = Option<Value>> + Send {
        ready(self.0.get(key).map(|entry| Arc::clone(&entry)))
    }
}

pub struct QuickCache(quick_cache::sync::Cache<Key, Value>);

impl Peer for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn new(_runtime: &Handle) -> Self {
        let entries = usize::try_from(ENTRIES).expect("32 bits fit");
        Self(quick_cache::sync::Cache::new(entries))
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        async move { self.0.get_or_insert_async(&key, lookup().map(Ok)).await }
    }
}

impl Cached for QuickCache {
    fn cached(&self, key: &Key) -> impl Future<Output = Option<Value>> + Send {
        ready(self.0.get(key))
    }
}

/// Coalesces, and keeps nothing.
pub struct Uniflight(uniflight::Merger<Key, Value>);

impl Peer for Uniflight {
    const NAME: &'static str = "uniflight";

    fn new(_runtime: &Handle) -> Self {
        Self(uniflight::Merger::new())
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        let answer = self.0.execute(&key, lookup);
        answer.map(|answer| answer.map_err(|_panicked| Failed))
    }
}

/// The least that does the work: a task that runs the lookup, and a channel that everybody listens to. No cache, no map of keys,
/// and right only as long as all callers ask for one key before they ask for the next.
pub struct Bare {
    sender: broadcast::Sender<Value>,
    /// The key that was last asked for.
    last: AtomicU64,
}

impl Peer for Bare {
    const NAME: &'static str = "bare";

    fn new(_runtime: &Handle) -> Self {
        Self {
            sender: broadcast::channel(1).0,
            last: AtomicU64::new(u64::MAX),
        }
    }

    fn ask<L, F>(&self, key: Key, lookup: L) -> impl Future<Output = Result<Value, Failed>> + Send
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        async move {
            let mut receiver = self.sender.subscribe();
            let [number, ..] = *key.as_chunks::<8>().0 else {
                return Err(Failed);
            };
            let number = u64::from_le_bytes(number);
            if self.last.swap(number, Relaxed) != number {
                let sender = self.sender.clone();
                let lookup = lookup();
                // Owns the lookup. Ends with it.
                tokio::spawn(async move { sender.send(lookup.await) });
            }
            receiver.recv().await.map_err(|_closed| Failed)
        }
    }
}
