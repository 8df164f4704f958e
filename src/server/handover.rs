//! Queues of accepted connections, one for each worker, and detection of workers that are stalled.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A worker takes a connection within microseconds. One that takes none for this long is stalled, and others get its connections.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_millis(20);

/// The queue of connections for one worker. All queues together are bounded by the limit on open connections.
pub(super) struct Handover<T> {
    /// Locked for a push or a pop, or while all entries are moved.
    queue: Mutex<Queue<T>>,
    /// Notified when a connection is pushed or the queue is closed. The worker waits for it.
    arrived: Notify,
}

struct Queue<T> {
    /// With the times at which they were pushed.
    entries: VecDeque<(Instant, T)>,
    /// The entries were moved to other workers, and the worker has not asked for more since.
    emptied: bool,
    closed: bool,
}

impl<T> Handover<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                entries: VecDeque::new(),
                emptied: false,
                closed: false,
            }),
            arrived: Notify::new(),
        }
    }

    /// The next connection. `None` once the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<T> {
        loop {
            {
                let mut queue = self.queue.lock();
                queue.emptied = false;
                if let Some((_since, entry)) = queue.entries.pop_front() {
                    return Some(entry);
                }
                if queue.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    pub(super) fn push(&self, entry: T, now: Instant) {
        self.queue.lock().entries.push_back((now, entry));
        self.arrived.notify_one();
    }

    /// Ends [`Handover::next`] once the queue is empty.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().entries.is_empty()
    }

    /// Whether the worker has not taken a connection for too long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        let queue = self.queue.lock();
        let oldest = queue.entries.front();
        queue.emptied
            || oldest.is_some_and(|(since, _)| now.saturating_duration_since(*since) >= STALL_TIMEOUT)
    }

    /// Takes all entries, for other workers. This one counts as stalled until it asks for more.
    pub(super) fn take_all(&self) -> impl Iterator<Item = T> + use<T> {
        let mut queue = self.queue.lock();
        queue.emptied = true;
        mem::take(&mut queue.entries)
            .into_iter()
            .map(|(_since, entry)| entry)
    }
}

/// The index of the worker that gets the next connection: the one with the fewest, preferably not stalled. `workers` yields whether a
/// worker is stalled, and its number of connections.
pub(super) fn least_loaded(workers: impl Iterator<Item = (bool, usize)>) -> Option<usize> {
    let all = workers.enumerate();
    all.min_by_key(|(_, load)| *load).map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
