//! `file:PATH`: what is known, kept by one plaque in a file of its own, so that a restart forgets nothing.
//!
//! The engine is redb: a B-tree in one file, in Rust, with a stable format, releases every few weeks, and no threads of its own. It
//! copies on write and swaps two roots, so that a process that is killed leaves the last commit whole. (fjall has folders and
//! threads for more writes than pacing lets come; heed binds LMDB's C; sled has not left its alpha.)
//!
//! `save` leaves bytes in a queue; a thread commits what is there every ten seconds, or sooner if much is, with one fsync for all. What
//! waits for that is what `load` finds first. Each commit writes the way from the roots to what it changes anew, so that many small ones
//! wear a disk out (`benches/REPORT.md`).
//!
//! What redb frees it uses again, but the file grows by doubling, and pages are half full or worse: it comes to two to four and a half
//! times what entries take. So entries may have a sixth of what the file may have ([`SPACE_FACTOR`]). A file that is longer all the same,
//! since the limit was lowered, is compacted when it is opened.
//!
//! What is only a failure has a place of its own ([`FAILURE_SHARE`]), so that no flood of made-up channels pushes an answer out. It is
//! not given any more when it does not matter ([`super::lifetime`]), and removed within 15 minutes.
//!
//! Entries are dated by the wall clock, the only clock that outlives a restart of the machine. If an entry is dated in the future, that
//! clock was wrong when the entry was saved, or is wrong now: the entry's age is unknown. It is loaded as so old that it is looked up
//! before it is given, yet can be given if that lookup fails ([`Ages`]), and is evicted before all others. Its date stays as it is: on a
//! machine whose clock is wrong until the network is up, the age is right again as soon as the clock is.
//!
//! Opening reads the whole file once, to compare its checksums, and keeps none of it: what was damaged is then known before it is
//! asked for.

mod ages;
mod by_time;
mod engine;
mod failures;
mod health;
mod location;
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
    engine::{FORMAT, MIN_BYTES, SPACE_FACTOR},
    failures::FAILURE_SHARE,
};
use self::{
    engine::{Engine, Key, Refused, Stored},
    health::{Health, Part},
    writer::Shared,
};
use super::{Known, Lease, RemoteUpdate, Store, codec, lifetime::failure_lifetime, metrics::Outcome};
use crate::{clock, metrics::metric, upstream::Feed};

/// Reads at once. One takes microseconds, unless the disk hangs; then no more threads than these hang with it.
const READS: usize = 4;

/// Why plaque cannot start with this file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the store {} is in use by another program, perhaps another plaque; stop it, or give each plaque a file of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// It is something else than a file.
    #[error("the store {} is {what}; it has to be a file that plaque may write, in a folder that is there", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It cannot be opened, and never could without somebody's doing.
    #[error("cannot open the store {}: {error}; it has to be a file that plaque may write, in a folder that is there", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No thread to write it.
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
    /// Opens the file at `path`, or begins one, which may grow to `bytes` (at least [`MIN_BYTES`]). A lookup waits for the disk no
    /// longer than `budget`.
    ///
    /// A file that cannot be read is renamed. If the disk is full or fails, the store begins without the file, and tries again.
    ///
    /// # Errors
    ///
    /// If another process has the file, or there cannot be one.
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
        let shared = Arc::new(Shared {
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

    /// Waits until all that was saved so far is in the file.
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

    async fn find(&self, feed: Feed) -> (Outcome, Option<Known>) {
        let key = engine::key(feed);
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
        let known = self.decode(feed, stored.entry);
        let failure = self.decode(feed, failure);
        let known = match known {
            Some(known) => Some(codec::with_later_failure(known, failure)),
            None => failure,
        };
        let outcome = if known.is_some() {
            Outcome::Hit
        } else {
            Outcome::Miss
        };
        (outcome, known)
    }

    /// What was saved then, if it can be read.
    fn decode(&self, feed: Feed, saved: Option<(u64, Vec<u8>)>) -> Option<Known> {
        let (saved, bytes) = saved?;
        let known = codec::decode(&bytes, feed, self.shared.ages.since(saved), clock::now());
        known
            .inspect_err(|error| {
                tracing::debug!(%feed, %error, "what is kept cannot be read, and is removed");
                self.shared.remove(engine::key(feed), saved);
            })
            .ok()
    }

    /// What the file has, or what came of the try.
    async fn read(&self, key: Key) -> Result<Stored, Outcome> {
        let reads = Arc::clone(&self.reads);
        let permit = if self.shared.health.is_failing(Part::Reading) {
            // The disk hangs, perhaps: one try for each thread that it has given back.
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
        // No thread for it: the runtime ends.
        read.await.unwrap_or(Err(Outcome::Skipped))
    }
}

impl Store for File {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<Known>> {
        async move {
            let begun = Instant::now();
            let (outcome, known) = self.find(feed).await;
            self.shared.health.observe("load", outcome, begun);
            known
        }
        .boxed()
    }

    fn lease(&self, _feed: Feed) -> BoxFuture<'_, Lease> {
        future::ready(Lease::Uncoordinated).boxed()
    }

    fn save<'a>(&'a self, feed: Feed, known: &'a Known, _lease: Lease) -> BoxFuture<'a, bool> {
        let begun = Instant::now();
        let now = clock::now();
        if let Some(bytes) = codec::encode(known, now) {
            let key = engine::key(feed);
            let kept = match failure_lifetime(known, now) {
                None => self.shared.enqueue(key, bytes),
                Some(lifetime) => self.shared.enqueue_failure(key, bytes, lifetime),
            };
            let outcome = if kept { Outcome::Ok } else { Outcome::Skipped };
            self.shared.health.observe("save", outcome, begun);
        }
        future::ready(true).boxed()
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
                    "the store {} is not written yet; what was found last is lost",
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

/// Whether trying again would be of no use.
fn is_permanent(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(
        error.kind(),
        NotFound | PermissionDenied | IsADirectory | NotADirectory | ReadOnlyFilesystem
    )
}
