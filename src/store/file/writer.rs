//! The thread that writes to the store's file, and the queue of what it writes next.

use std::{
    mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::{
    ages::Ages,
    engine::{self, Change, Changes, Engine, Stored, Units},
    failures::{FAILURE_SHARE, Failure},
    format::Key,
    health::{Health, Part},
};

/// The usual interval of commits. What a killed process loses is looked up again; at the default rate that takes the same time.
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_secs(10);

/// The interval of commits while the queue is long. Including the commit itself, entries are on disk within a second.
pub(super) const MIN_COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The length of a long queue: larger batches would hardly be cheaper per entry, and a crash would lose more.
pub(super) const LARGE_BATCH: usize = 256;

/// The pause after a failed commit. Doubles up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// State shared by the store, its reads and the writer thread.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) ages: Ages,
    /// Locked for writing only while the file is opened or closed.
    pub(super) engine: RwLock<Option<Engine>>,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    /// Notified after each batch; true after the last one.
    pub(super) batches: watch::Sender<bool>,
    pub(super) health: Health,
    pub(super) units: Mutex<Units>,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: Changes,
    /// Its size: successes, and failures.
    pub(super) bytes: usize,
    pub(super) failure_bytes: usize,
    pub(super) writing: Arc<Changes>,
    /// Commit without waiting for the interval.
    pub(super) urgent: bool,
    /// A read has failed: open the file again.
    pub(super) reopen: bool,
    pub(super) closing: bool,
}

impl Shared {
    /// What the queue has for a feed.
    pub(super) fn waiting(&self, key: &Key) -> Stored {
        let queue = self.queue.lock();
        let (waiting, before) = (&queue.waiting, &*queue.writing);
        let change = waiting.entries.get(key);
        let entry = match change.or_else(|| before.entries.get(key)) {
            Some(Change::Put { saved, bytes }) => Some((*saved, bytes.clone())),
            Some(Change::Remove { .. }) | None => None,
        };
        let failure = waiting.failures.get(key);
        // A later success supersedes a failure.
        let failure = match (failure, change) {
            (None, Some(Change::Put { .. })) => None,
            (failure, _) => failure.or_else(|| before.failures.get(key)),
        };
        let failure = failure.cloned();
        Stored { entry, failure }
    }

    /// Queues an entry, in place of an older one of the same feed. Returns false if the queue is full.
    pub(super) fn enqueue(&self, key: Key, bytes: Vec<u8>) -> bool {
        let limit = engine::batch_limit(self.bytes);
        let mut queue = self.queue.lock();
        let before = queue.waiting.entries.get(&key).map_or(0, Change::len);
        let after = queue.bytes - before + bytes.len();
        if queue.closing || after > limit {
            return false;
        }
        let saved = self.ages.now();
        queue.waiting.entries.insert(key, Change::Put { saved, bytes });
        queue.bytes = after;
        if let Some(before) = queue.waiting.failures.remove(&key) {
            queue.failure_bytes -= before.cost();
        }
        queue.urgent |= after > limit / 2;
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// Queues a failure with this `lifetime`, beside the success of the same feed. Returns false if the queue has no room for failures.
    pub(super) fn enqueue_failure(&self, key: Key, bytes: Vec<u8>, lifetime: Duration) -> bool {
        let limit = failure_limit(engine::batch_limit(self.bytes));
        let saved = self.ages.now();
        let lifetime = u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX);
        let until = saved.saturating_add(lifetime);
        let failure = Failure { saved, until, bytes };
        let mut queue = self.queue.lock();
        let before = queue.waiting.failures.get(&key).map_or(0, Failure::cost);
        let after = queue.failure_bytes - before + failure.cost();
        if queue.closing || after > limit {
            return false;
        }
        queue.waiting.failures.insert(key, failure);
        queue.failure_bytes = after;
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// Adds to the units of a day and a key, and queues the day's units.
    pub(super) fn add_units(&self, day: u32, key: u16, units: u64) -> u64 {
        let mut spent = self.units.lock();
        let sum = spent.add(day, key, units);
        if units > 0 {
            self.queue.lock().waiting.units = Some(spent.clone());
            self.wake.notify_one();
        }
        sum
    }

    /// Queues the removal of the entry that was saved at `saved`, unless another one replaces it.
    pub(super) fn remove(&self, key: Key, saved: u64) {
        let mut queue = self.queue.lock();
        if !queue.closing && !queue.writing.entries.contains_key(&key) {
            queue
                .waiting
                .entries
                .entry(key)
                .or_insert(Change::Remove { saved });
        }
        drop(queue);
        self.wake.notify_one();
    }

    pub(super) fn end(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_one();
    }

    pub(super) fn write_behind(&self) {
        let mut committed = None;
        let mut retry_at = Instant::now();
        let mut pause = PAUSE;
        loop {
            let (changes, reopen, last) = self.next_batch(committed, retry_at);
            if reopen {
                self.close_engine();
            }
            committed = Some(Instant::now());
            match self.write(&changes) {
                Ok(()) => {
                    self.queue.lock().writing = Arc::default();
                    self.health.report_success(Part::Writing);
                    pause = PAUSE;
                }
                Err(error) => {
                    self.health.report_failure(Part::Writing, error);
                    self.queue.lock().requeue();
                    retry_at = Instant::now() + pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
            if last {
                let left = self.queue.lock().waiting.len();
                if left > 0 {
                    tracing::warn!("{left} feeds could not be saved in {}", self.path.display());
                }
                self.close_engine();
            }
            self.batches.send_replace(last);
            if last {
                return;
            }
        }
    }

    /// Waits until there is something to do. Returns the next batch, whether to open the file again first, and whether it is the last
    /// batch. The last commit was at `committed`.
    pub(super) fn next_batch(
        &self,
        committed: Option<Instant>,
        retry_at: Instant,
    ) -> (Arc<Changes>, bool, bool) {
        let mut queue = self.queue.lock();
        loop {
            let now = Instant::now();
            let due = if self.health.is_failing(Part::Writing) || queue.reopen {
                Some(retry_at)
            } else {
                queue.due(committed, now, engine::batch_limit(self.bytes))
            };
            if queue.closing || due.is_some_and(|due| due <= now) {
                queue.urgent = false;
                queue.bytes = 0;
                queue.failure_bytes = 0;
                queue.writing = Arc::new(mem::take(&mut queue.waiting));
                let reopen = mem::take(&mut queue.reopen);
                return (Arc::clone(&queue.writing), reopen, queue.closing);
            }
            match due {
                Some(due) => drop(self.wake.wait_until(&mut queue, due)),
                None => self.wake.wait(&mut queue),
            }
        }
    }

    pub(super) fn write(&self, changes: &Changes) -> Result<(), String> {
        let is_detached = |engine: &Engine| engine.is_detached_from(&self.path);
        if self.engine.read().as_ref().is_some_and(is_detached) {
            tracing::warn!(
                "the store {} was removed or replaced: its entries are lost, and plaque continues with the file that is there now, or a new one",
                self.path.display()
            );
            self.close_engine();
        }
        if self.engine.read().is_none() {
            self.open_engine()?;
        }
        let written = match &*self.engine.read() {
            Some(engine) if !changes.is_empty() => engine.apply(changes, self.ages.now()),
            _ => return Ok(()),
        };
        // redb accepts no writes after a failure. Open the file again, so that it can at least be read.
        written.inspect_err(|_| {
            self.close_engine();
            let _ = self.open_engine();
        })
    }

    fn open_engine(&self) -> Result<(), String> {
        let engine =
            Engine::open(&self.path, self.bytes, self.ages.now()).map_err(|refused| refused.to_string())?;
        *self.engine.write() = Some(engine);
        Ok(())
    }

    fn close_engine(&self) {
        if let Some(engine) = self.engine.write().take() {
            engine.close();
        }
    }
}

impl Queue {
    /// When to commit the queue, whose limit is `limit` bytes, after a commit at `committed`.
    pub(super) fn due(&self, committed: Option<Instant>, now: Instant, limit: usize) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        if self.urgent {
            return Some(now);
        }
        let is_large = self.waiting.len() >= LARGE_BATCH || self.failure_bytes > failure_limit(limit) / 2;
        let pause = if is_large {
            MIN_COMMIT_INTERVAL
        } else {
            COMMIT_INTERVAL
        };
        Some(committed.map_or(now, |committed| committed + pause))
    }

    /// Puts a batch that was not committed back into the queue, except for what was replaced since.
    pub(super) fn requeue(&mut self) {
        let not_written = mem::take(&mut self.writing);
        self.waiting.units = self.waiting.units.take().or_else(|| not_written.units.clone());
        for (key, failure) in &not_written.failures {
            if !matches!(self.waiting.entries.get(key), Some(Change::Put { .. })) {
                let waiting = self.waiting.failures.entry(*key);
                waiting.or_insert_with(|| failure.clone());
            }
        }
        for (key, change) in &not_written.entries {
            let waiting = self.waiting.entries.entry(*key);
            waiting.or_insert_with(|| change.clone());
        }
        self.bytes = self.waiting.entries.values().map(Change::len).sum();
        self.failure_bytes = self.waiting.failures.values().map(Failure::cost).sum();
    }
}

/// The limit of failures in a queue whose limit for successes is `limit` bytes.
fn failure_limit(limit: usize) -> usize {
    limit / usize::try_from(FAILURE_SHARE).unwrap_or(usize::MAX)
}
