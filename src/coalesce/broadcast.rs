//! A channel that tells everybody who listens one thing, once.
//!
//! tokio's `broadcast` keeps a queue, and a receiver takes the queue's lock when it leaves. For one message there is no queue:
//! a receiver takes no lock to get it, and is smaller (`benches/REPORT.md` has what that brings).

use super::sync::{Arc, AtomicUsize, Notify, OnceLock, Ordering::Relaxed};

/// As many callers wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} callers wait already")]
pub struct Overloaded(pub usize);

/// The places for those who listen, to whichever channel.
pub(super) struct Places {
    taken: AtomicUsize,
    all: usize,
}

/// A place that was taken. The receiver that it is used for gives it back.
#[must_use]
pub(super) struct Place(());

/// Sends the message. Dropped without, it closes the channel.
pub(super) struct Sender<T>(Arc<Channel<T>>);

/// Listens, and takes a place for it until it is dropped.
pub(super) struct Receiver<T>(Arc<Channel<T>>);

struct Channel<T> {
    /// `None` within: closed without a message.
    message: OnceLock<Option<T>>,
    sent: Notify,
    places: Arc<Places>,
    listening: AtomicUsize,
    /// The last of those who listened has left. Others may have come since.
    all_left: Notify,
}

/// Counts those who listen. Does not listen, nor keep the channel open.
pub(super) struct Listeners<T>(Arc<Channel<T>>);

impl Places {
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            all,
        })
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(super) fn take(&self) -> Result<Place, Overloaded> {
        let more = |taken: usize| (taken < self.all).then_some(taken + 1);
        match self.taken.fetch_update(Relaxed, Relaxed, more) {
            Ok(_before) => Ok(Place(())),
            Err(_all) => Err(Overloaded(self.all)),
        }
    }
}

impl<T> Sender<T> {
    pub(super) fn new(places: &Arc<Places>) -> Self {
        Self(Arc::new(Channel {
            message: OnceLock::new(),
            sent: Notify::new(),
            places: Arc::clone(places),
            listening: AtomicUsize::new(0),
            all_left: Notify::new(),
        }))
    }

    /// Listens to what this sender is going to send.
    pub(super) fn subscribe(&self, _place: Place) -> Receiver<T> {
        self.0.listening.fetch_add(1, Relaxed);
        Receiver(Arc::clone(&self.0))
    }

    /// How many listen.
    pub(super) fn listening(&self) -> usize {
        self.0.listening.load(Relaxed)
    }

    pub(super) fn listeners(&self) -> Listeners<T> {
        Listeners(Arc::clone(&self.0))
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
        reason = "it would keep `self` twice: as it came, and as it is used"
    )]
    pub(super) fn recv(self) -> impl Future<Output = Option<T>> {
        async move {
            // Made before the look at the message: what is sent in between, it hears of.
            let sent = self.0.sent.notified();
            if self.0.message.get().is_none() {
                sent.await;
            }
            self.0.message.get().cloned().flatten()
        }
    }
}

impl<T> Listeners<T> {
    /// How many listen.
    pub(super) fn count(&self) -> usize {
        self.0.listening.load(Relaxed)
    }

    /// Waits until the last has left, since the last call of this. Others may have come by then.
    pub(super) async fn all_left(&self) {
        self.0.all_left.notified().await;
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.places.taken.fetch_sub(1, Relaxed);
        if self.0.listening.fetch_sub(1, Relaxed) == 1 {
            self.0.all_left.notify_one();
        }
    }
}
