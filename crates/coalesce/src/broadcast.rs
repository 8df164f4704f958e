//! A broadcast channel for a single message.
//!
//! tokio's `broadcast` has a queue, whose lock a receiver takes when it is dropped. A single message needs no
//! queue: receivers take no lock, and are smaller.

use super::sync::{Arc, AtomicUsize, Notify, OnceLock, Ordering::Relaxed};

/// The limit of waiting callers is reached. Has the limit, which `Builder::max_waiters` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} callers wait already")]
pub struct Overloaded(pub usize);

/// Limits the receivers of all channels together.
pub(super) struct WaiterLimit {
    waiters: AtomicUsize,
    max: usize,
}

/// Permission for one receiver, which returns it when dropped.
#[must_use]
pub(super) struct WaiterPermit(());

/// Sends the message. Dropping it without sending closes the channel.
pub(super) struct Sender<T>(Arc<Channel<T>>);

/// Receives the message. Counts as a waiter until it is dropped.
pub(super) struct Receiver<T>(Arc<Channel<T>>);

struct Channel<T> {
    /// Holds `None` if the channel was closed without a message.
    message: OnceLock<Option<T>>,
    sent: Notify,
    limit: Arc<WaiterLimit>,
    receivers: AtomicUsize,
    /// The last receiver was dropped. Others may have subscribed since.
    all_left: Notify,
}

/// Counts the receivers. Is not a receiver itself and does not keep the channel open.
pub(super) struct Receivers<T>(Arc<Channel<T>>);

impl WaiterLimit {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            waiters: AtomicUsize::new(0),
            max,
        })
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Relaxed)
    }

    pub(super) fn acquire(&self) -> Result<WaiterPermit, Overloaded> {
        let more = |waiters: usize| (waiters < self.max).then_some(waiters + 1);
        match self.waiters.fetch_update(Relaxed, Relaxed, more) {
            Ok(_before) => Ok(WaiterPermit(())),
            Err(_max) => Err(Overloaded(self.max)),
        }
    }
}

impl<T> Sender<T> {
    pub(super) fn new(limit: &Arc<WaiterLimit>) -> Self {
        Self(Arc::new(Channel {
            message: OnceLock::new(),
            sent: Notify::new(),
            limit: Arc::clone(limit),
            receivers: AtomicUsize::new(0),
            all_left: Notify::new(),
        }))
    }

    /// Creates a receiver of the message.
    pub(super) fn subscribe(&self, _permit: WaiterPermit) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Relaxed);
        Receiver(Arc::clone(&self.0))
    }

    pub(super) fn receiver_count(&self) -> usize {
        self.0.receivers.load(Relaxed)
    }

    pub(super) fn receivers(&self) -> Receivers<T> {
        Receivers(Arc::clone(&self.0))
    }

    /// Only the first message counts.
    pub(super) fn send(&self, message: T) {
        self.0.end(Some(message));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

impl<T> Channel<T> {
    fn end(&self, message: Option<T>) {
        if self.message.set(message).is_ok() {
            self.sent.notify_waiters();
        }
    }
}

impl<T: Clone> Receiver<T> {
    /// The message; `None` if the sender was dropped without one.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would keep `self` twice: as the argument, and as what is used"
    )]
    pub(super) fn recv(self) -> impl Future<Output = Option<T>> {
        async move {
            // Created before the check, so that a message sent in between is noticed.
            let sent = self.0.sent.notified();
            if self.0.message.get().is_none() {
                sent.await;
            }
            self.0.message.get().cloned().flatten()
        }
    }
}

impl<T> Receivers<T> {
    pub(super) fn count(&self) -> usize {
        self.0.receivers.load(Relaxed)
    }

    /// Waits until the last receiver is dropped, unless that happened since the previous call. Others may have subscribed by then.
    pub(super) async fn all_left(&self) {
        self.0.all_left.notified().await;
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.limit.waiters.fetch_sub(1, Relaxed);
        if self.0.receivers.fetch_sub(1, Relaxed) == 1 {
            self.0.all_left.notify_one();
        }
    }
}
