//! Which worker serves a connection, and what becomes of those that it does not take.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A worker takes a connection within microseconds. One that has not taken it for so long is held up: others get it.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// Connections on their way to one worker. As many as may be open at most, all workers' together.
pub(super) struct Handover<T> {
    /// Held for a push or a pop, or while all of them are moved.
    waiting: Mutex<Waiting<T>>,
    /// Told when something arrives, or nothing will. The worker waits for it.
    arrived: Notify,
}

struct Waiting<T> {
    /// With the time since which each waits.
    arriving: VecDeque<(Instant, T)>,
    /// Others got what waited, and the worker has not come for more since.
    relieved: bool,
    closed: bool,
}

impl<T> Handover<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                arriving: VecDeque::new(),
                relieved: false,
                closed: false,
            }),
            arrived: Notify::new(),
        }
    }

    /// What the worker serves next. `None` when nothing will come any more.
    pub(super) async fn next(&self) -> Option<T> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                waiting.relieved = false;
                if let Some((_since, one)) = waiting.arriving.pop_front() {
                    return Some(one);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    pub(super) fn push(&self, one: T, now: Instant) {
        self.waiting.lock().arriving.push_back((now, one));
        self.arrived.notify_one();
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().arriving.is_empty()
    }

    /// Whether the worker has not taken something for too long.
    pub(super) fn is_held_up(&self, now: Instant) -> bool {
        let waiting = self.waiting.lock();
        let oldest = waiting.arriving.front();
        waiting.relieved || oldest.is_some_and(|(since, _)| now.saturating_duration_since(*since) >= PATIENCE)
    }

    /// Takes all that waits, for others. The worker is held up until it comes for more.
    pub(super) fn take_back(&self) -> impl Iterator<Item = T> + use<T> {
        let mut waiting = self.waiting.lock();
        waiting.relieved = true;
        mem::take(&mut waiting.arriving)
            .into_iter()
            .map(|(_since, one)| one)
    }
}

/// The one of `workers` that gets one more connection: of those that take theirs, the one with the fewest. They are pairs: whether it is
/// held up, and how many it has.
pub(super) fn choose(workers: impl Iterator<Item = (bool, usize)>) -> Option<usize> {
    let all = workers.enumerate();
    all.min_by_key(|(_, load)| *load).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest_that_takes_it() {
        assert_eq!(choose([(false, 3), (false, 2), (false, 4)].into_iter()), Some(1));
        assert_eq!(choose([(false, 3), (true, 0), (false, 4)].into_iter()), Some(0));
        assert_eq!(choose([(true, 3), (true, 2)].into_iter()), Some(1));
        assert_eq!(choose([].into_iter()), None);
    }

    #[test]
    fn a_worker_is_held_up_when_it_takes_nothing_for_long() {
        let (handover, now) = (Handover::new(), Instant::now());
        assert!(!handover.is_held_up(now + PATIENCE));
        handover.push(1, now);
        handover.push(2, now + PATIENCE);
        assert!(!handover.is_held_up(now + PATIENCE / 2));
        assert!(handover.is_held_up(now + PATIENCE));
        assert_eq!(handover.next().now_or_never(), Some(Some(1)));
        assert!(!handover.is_held_up(now + PATIENCE));
        assert_eq!(handover.take_back().collect::<Vec<_>>(), [2]);
        assert!(handover.is_empty() && handover.is_held_up(now));
        // It comes for more.
        assert_eq!(handover.next().now_or_never(), None);
        assert!(!handover.is_held_up(now));
        handover.close();
        assert_eq!(handover.next().now_or_never(), Some(None));
    }
}
