//! `file:PATH`: a store in one file, used by one plaque, so that a restart does not empty the cache.
//!
//! The engine is redb: a B-tree in one file, written in Rust, with a stable format, releases every few weeks, and no threads of its own. It
//! is copy-on-write and swaps two roots, so a killed process leaves its last commit intact. (fjall has folders and threads for higher write
//! rates than the dispatcher allows; heed binds LMDB's C; sled is in alpha.)
//!
//! `save` puts bytes into a queue. A thread commits the queue every ten seconds, or sooner if it is long, with one fsync for all of it;
//! `load` looks in the queue first. Each commit rewrites the path from the roots to every changed page, so many small commits would wear
//! out a disk (`benches/REPORT.md`).
//!
//! redb reuses freed pages, but the file grows by doubling and pages are at most half full: it becomes two to four and a half times as long
//! as its entries. Entries may therefore take a sixth of the file's limit ([`SPACE_FACTOR`]). A file that is still too long, because the
//! limit was lowered, is compacted when it is opened.
//!
//! Failures without a success have a space of their own ([`FAILURE_SHARE`]), so that no flood of made-up channels evicts successes. They
//! are not returned after their lifetime ([`super::lifetime`]), and are removed within 15 minutes.
//!
//! Entries are dated by the wall clock, the only one that survives a reboot. If an entry is dated in the future, that clock was wrong when
//! it was saved, or is wrong now, and the entry's age is unknown. It is loaded as so old that it is revalidated before it is served, yet
//! can be served if that fails ([`Ages`]), and it is evicted before all others. Its date is kept: on a machine whose clock is wrong until
//! the network is up, the age is right again once the clock is.
//!
//! Opening reads the whole file once to verify its checksums, and caches none of it: damage is found before an entry is needed.

mod ages;
mod by_time;
mod engine;
mod failures;
mod format;
mod health;
mod location;
mod refused;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use parking_lot::{Condvar, Mutex, RwLock};
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};
use tokio::sync::{Semaphore, watch};

pub use self::{
    ages::Ages,
    failures::FAILURE_SHARE,
    format::{FORMAT, MIN_BYTES, SPACE_FACTOR},
};
use self::{
    engine::{Engine, Stored, Units},
    format::Key,
    health::{Health, Part},
    refused::Refused,
    writer::Shared,
};
use super::{
    FeedEntry, Lease, RemoteUpdate, Store,
    codec::{self, Since},
    lifetime::{NAME_LIFETIME, failure_lifetime},
    metrics::Outcome,
};
use crate::{
    clock,
    metrics::metric,
    upstream::Feed,
    video::{ChannelName, ResolvedChannel},
};

/// Concurrent reads. A read takes microseconds unless the disk hangs; then no more threads than these hang with it.
const READS: usize = 4;

/// Why plaque cannot start with this file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store {} is in use by another program, perhaps another plaque; stop it, or give each plaque a file of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// It is not a regular file.
    #[error("the store {} is {what}; it has to be a file that plaque may write, in a folder that is there", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// It cannot be opened, and retrying would not help.
    #[error("cannot open the store {}: {error}; it has to be a file that plaque may write, in a folder that is there", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The writer thread could not be started.
    #[error("cannot start a thread for the store: {0}")]
    Thread(io::Error),
}

/// A store in a file.
pub struct File {
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
    budget: Duration,
}

impl File {
    /// Opens or creates the file at `path`, which may grow to `bytes` (at least [`MIN_BYTES`]). A lookup waits at most `budget` for the
    /// disk.
    ///
    /// A file that cannot be read is renamed, and a new one created. If the disk is full or fails, the store starts without the file and
    /// retries.
    ///
    /// # Errors
    ///
    /// If another process has the file open, or no file can be opened or created there.
    pub fn open(path: &Path, bytes: u64, budget: Duration, ages: Ages) -> Result<Self, OpenError> {
        let bytes = bytes.max(MIN_BYTES);
        let health = Health::new(path.display().to_string());
        let engine = match Engine::open(path, bytes, ages.now()) {
            Ok(engine) => {
                tracing::info!("{} feeds are kept in {}", engine.entries(), path.display());
                Some(engine)
            }
            Err(Refused::Locked) => return Err(OpenError::Locked(path.into())),
            Err(Refused::NotAFile(what)) => {
                let path = path.into();
                return Err(OpenError::NotAFile { path, what });
            }
            Err(Refused::Io(error)) if is_permanent(&error) => {
                let path = path.into();
                return Err(OpenError::Io { path, error });
            }
            Err(refused) => {
                health.report_failure(Part::Writing, refused);
                None
            }
        };
        let units = engine.as_ref().map_or_else(Units::default, Engine::units);
        let shared = Arc::new(Shared {
            units: Mutex::new(units),
            path: path.into(),
            bytes,
            ages,
            engine: RwLock::new(engine),
            queue: Mutex::default(),
            wake: Condvar::new(),
            batches: watch::Sender::new(false),
            health,
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.write_behind())
            .map_err(OpenError::Thread)?;
        Ok(Self {
            shared,
            reads: Arc::new(Semaphore::new(READS)),
            budget,
        })
    }

    /// Waits until everything saved so far is committed.
    pub async fn written(&self) {
        let mut batches = self.shared.batches.subscribe();
        loop {
            {
                let mut queue = self.shared.queue.lock();
                if queue.waiting.is_empty() && queue.writing.is_empty() {
                    return;
                }
                queue.urgent = true;
            }
            self.shared.wake.notify_one();
            if batches.changed().await.is_err() || *batches.borrow() {
                return;
            }
        }
    }

    async fn find(&self, feed: Feed) -> (Outcome, Option<FeedEntry>) {
        let key = format::key(feed);
        let waiting = self.shared.waiting(&key);
        let stored = if waiting.entry.is_some() {
            waiting
        } else {
            match tokio::time::timeout(self.budget, self.read(key)).await {
                Ok(Ok(stored)) => Stored {
                    failure: waiting.failure.or(stored.failure),
                    ..stored
                },
                Ok(Err(skipped)) if waiting.failure.is_none() => return (skipped, None),
                Ok(Err(_skipped)) => waiting,
                Err(_elapsed) => {
                    let limit = humantime::format_duration(self.budget);
                    self.shared
                        .health
                        .report_failure(Part::Reading, format_args!("no answer within {limit}"));
                    return (Outcome::Error, None);
                }
            }
        };
        let failure = stored
            .failure
            .filter(|failure| self.shared.ages.now() < failure.until);
        let failure = failure.map(|failure| (failure.saved, failure.bytes));
        let entry = self.decode(feed, stored.entry);
        let failure = self.decode(feed, failure);
        let entry = match entry {
            Some(entry) => Some(codec::with_later_failure(entry, failure)),
            None => failure,
        };
        let outcome = if entry.is_some() {
            Outcome::Hit
        } else {
            Outcome::Miss
        };
        (outcome, entry)
    }

    /// Decodes an entry that was saved at that time, and removes it from the file if that fails.
    fn decode(&self, feed: Feed, saved: Option<(u64, Vec<u8>)>) -> Option<FeedEntry> {
        let (saved, bytes) = saved?;
        let entry = codec::decode(&bytes, feed, self.shared.ages.since(saved), clock::now());
        entry
            .inspect_err(|error| {
                tracing::debug!(%feed, %error, "an entry of the store cannot be decoded and is removed");
                self.shared.remove(format::key(feed), saved);
            })
            .ok()
    }

    /// Reads from the file, on a blocking thread.
    async fn read(&self, key: Key) -> Result<Stored, Outcome> {
        let reads = Arc::clone(&self.reads);
        let permit = if self.shared.health.is_failing(Part::Reading) {
            // The disk may hang: try only with a thread that it has released.
            reads.try_acquire_owned().ok()
        } else {
            reads.acquire_owned().await.ok()
        };
        let permit = permit.ok_or(Outcome::Skipped)?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let _until_it_is_over = permit;
            let engine = shared.engine.read();
            let engine = engine.as_ref().ok_or(Outcome::Skipped)?;
            match engine.get(&key) {
                Ok(found) => {
                    shared.health.report_success(Part::Reading);
                    Ok(found)
                }
                Err(error) => {
                    shared.health.report_failure(Part::Reading, error);
                    shared.queue.lock().reopen = true;
                    shared.wake.notify_one();
                    Err(Outcome::Error)
                }
            }
        });
        // The runtime is shutting down.
        read.await.unwrap_or(Err(Outcome::Skipped))
    }
}

impl Store for File {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        async move {
            let begun = Instant::now();
            let (outcome, entry) = self.find(feed).await;
            self.shared.health.observe("load", outcome, begun);
            entry
        }
        .boxed()
    }

    fn lease(&self, _feed: Feed) -> BoxFuture<'_, Lease> {
        future::ready(Lease::Uncoordinated).boxed()
    }

    fn save<'a>(&'a self, feed: Feed, entry: &'a FeedEntry, _lease: Lease) -> BoxFuture<'a, bool> {
        let begun = Instant::now();
        let now = clock::now();
        if let Some(bytes) = codec::encode(entry, now) {
            let key = format::key(feed);
            let queued = match failure_lifetime(entry, now) {
                None => self.shared.enqueue(key, bytes),
                Some(lifetime) => self.shared.enqueue_failure(key, bytes, lifetime),
            };
            let outcome = if queued { Outcome::Ok } else { Outcome::Skipped };
            self.shared.health.observe("save", outcome, begun);
        }
        future::ready(true).boxed()
    }

    fn add_units(&self, day: u32, key: u16, units: u64) -> BoxFuture<'_, Option<u64>> {
        future::ready(Some(self.shared.add_units(day, key, units))).boxed()
    }

    fn load_name<'a>(&'a self, name: &'a ChannelName) -> BoxFuture<'a, Option<(ResolvedChannel, Duration)>> {
        async move {
            let key = format::name_key(&name.to_string());
            let entry = match self.shared.waiting(&key).entry {
                None => {
                    tokio::time::timeout(self.budget, self.read(key))
                        .await
                        .ok()?
                        .ok()?
                        .entry
                }
                waiting => waiting,
            };
            let (saved, bytes) = entry?;
            // Dated in the future, its age is unknown.
            let Since::Known(age) = self.shared.ages.since(saved) else {
                return None;
            };
            Some((codec::decode_name(name, &bytes)?, NAME_LIFETIME.checked_sub(age)?))
        }
        .boxed()
    }

    fn save_name<'a>(&'a self, name: &'a ChannelName, channel: &'a ResolvedChannel) -> BoxFuture<'a, ()> {
        let name_key = format::name_key(&name.to_string());
        self.shared.enqueue(name_key, codec::encode_name(name, channel));
        future::ready(()).boxed()
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        Box::pin(stream::empty())
    }

    fn register(&self, registry: &mut Registry) {
        self.shared.health.register(registry);
        let path = self.shared.path.clone();
        let length = move || ConstGauge::new(path.metadata().map_or(0, |file| file.len()));
        metric(
            registry,
            "store_file_bytes",
            "The length of the store's file",
            length,
        );
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, ()> {
        async move {
            let mut batches = self.shared.batches.subscribe();
            self.shared.end();
            let ended = batches.wait_for(|last| *last);
            if tokio::time::timeout(limit, ended).await.is_err() {
                tracing::warn!(
                    "the store {} could not be written in time; its newest entries are lost",
                    self.shared.path.display()
                );
            }
        }
        .boxed()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Whether retrying would not help until somebody changes something.
fn is_permanent(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    matches!(
        error.kind(),
        InvalidFilename | IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem
    )
}
