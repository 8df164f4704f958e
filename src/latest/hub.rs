//! The channels that are watched, and who watches them.
//!
//! A watched channel has a *hub*, whoever watches it. It takes in every lookup of the channel, whoever asked for it, keeps the
//! [`Timeline`], and marks the channel as changed in the [`Inbox`] of each watch. A watch reads the timeline when it gets to it: no
//! queue grows, however slowly anybody reads.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use slab::Slab;
use tokio::task::AbortHandle;

use super::{
    Known,
    timeline::{Health, Timeline},
};
use crate::video::ChannelId;

/// Watches that are woken before others get a hub's list: some tens of microseconds.
const WOKEN_AT_ONCE: usize = 256;

/// The hubs of all channels that are watched.
pub(super) struct Hubs {
    /// Held for a lookup or an insertion, never across an `await`. A hub is owned by its watches, and removes itself.
    channels: Mutex<HashMap<ChannelId, Weak<Hub>>>,
    /// Watched channels, counted once for each watch; and how many there may be.
    watched: AtomicUsize,
    limit: usize,
    polls: AtomicU64,
}

impl Hubs {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            channels: Mutex::default(),
            watched: AtomicUsize::new(0),
            limit,
            polls: AtomicU64::new(0),
        }
    }

    /// Takes in a lookup that has ended.
    pub(super) fn publish(&self, channel: ChannelId, known: &Known, health: impl FnOnce() -> Health) {
        let hub = self.channels.lock().get(&channel).and_then(Weak::upgrade);
        if let Some(hub) = hub {
            hub.publish(known, health());
        }
    }

    /// The hub of a channel. If it has none, makes one, which the task that `poll` starts polls.
    pub(super) fn hub(
        self: &Arc<Self>,
        channel: ChannelId,
        poll: impl FnOnce(Weak<Hub>) -> AbortHandle,
    ) -> Arc<Hub> {
        let mut hubs = self.channels.lock();
        if let Some(hub) = hubs.get(&channel).and_then(Weak::upgrade) {
            return hub;
        }
        let hub = Arc::new(Hub {
            channel,
            timeline: RwLock::default(),
            watches: Mutex::default(),
            hubs: Arc::clone(self),
            poll: OnceLock::new(),
        });
        hubs.insert(channel, Arc::downgrade(&hub));
        drop(hubs);
        hub.poll.get_or_init(|| poll(Arc::downgrade(&hub)));
        hub
    }

    /// Room for a watch of so many channels.
    ///
    /// # Errors
    ///
    /// How many channels may be watched, if these are too many.
    pub(super) fn reserve(self: &Arc<Self>, channels: usize) -> Result<Reserved, usize> {
        let add = |watched: usize| watched.checked_add(channels).filter(|sum| *sum <= self.limit);
        match self.watched.fetch_update(AcqRel, Acquire, add) {
            Ok(_before) => Ok(Reserved {
                hubs: Arc::clone(self),
                channels,
            }),
            Err(_full) => Err(self.limit),
        }
    }

    /// The number of channels that are watched.
    pub(super) fn len(&self) -> usize {
        self.channels.lock().len()
    }

    /// The channels that are watched.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.channels.lock().keys().copied().collect()
    }

    /// Whether somebody watches `channel`.
    pub(super) fn is_watched(&self, channel: ChannelId) -> bool {
        self.channels.lock().contains_key(&channel)
    }

    /// The number of watched channels, counted once for each watch.
    pub(super) fn watched(&self) -> usize {
        self.watched.load(Relaxed)
    }

    /// Counts a poll.
    pub(super) fn polled(&self) {
        self.polls.fetch_add(1, Relaxed);
    }

    /// The number of polls so far.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }
}

/// Room for the channels of a watch, until it is dropped.
pub(super) struct Reserved {
    hubs: Arc<Hubs>,
    channels: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.hubs.watched.fetch_sub(self.channels, AcqRel);
    }
}

/// One watched channel.
pub(super) struct Hub {
    pub(super) channel: ChannelId,
    /// Written by lookups that have ended, read by each watch for as long as it takes to find its next event.
    timeline: RwLock<Timeline>,
    /// Who watches, and as which of its channels. Held by a watch that begins or ends, and to wake some of them; taken while
    /// `timeline` is not.
    watches: Mutex<Slab<(Arc<Inbox>, u8)>>,
    hubs: Arc<Hubs>,
    /// Polls the channel. Ended by the hub's drop.
    poll: OnceLock<AbortHandle>,
}

impl Hub {
    /// Marks channel `index` of a watch as changed in its `inbox` from now on. Returns what [`Self::leave`] wants.
    pub(super) fn join(&self, inbox: &Arc<Inbox>, index: u8) -> usize {
        self.watches.lock().insert((Arc::clone(inbox), index))
    }

    /// Ends what [`Self::join`] began.
    pub(super) fn leave(&self, place: usize) {
        self.watches.lock().remove(place);
    }

    /// Looks at the timeline.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Timeline) -> T) -> T {
        look(&self.timeline.read())
    }

    /// Takes in a lookup that has ended.
    fn publish(&self, known: &Known, health: Health) {
        if !self.timeline.write().apply(known, health) {
            return;
        }
        // A watch that joins meanwhile has yet to read the timeline; one that leaves frees its place, which nobody else moves to.
        let mut next = 0;
        loop {
            let watches = self.watches.lock();
            let end = watches.capacity().min(next + WOKEN_AT_ONCE);
            for place in next..end {
                if let Some((inbox, index)) = watches.get(place) {
                    inbox.mark(*index);
                }
            }
            if end == watches.capacity() {
                return;
            }
            next = end;
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(poll) = self.poll.get() {
            poll.abort();
        }
        let mut hubs = self.hubs.channels.lock();
        // Under its name there may be a newer hub by now, whose watches came after this one's last had left.
        let is_mine = |weak: &Weak<Self>| std::ptr::eq(weak.as_ptr(), self);
        if hubs.get(&self.channel).is_some_and(is_mine) {
            hubs.remove(&self.channel);
        }
    }
}

/// Which channels of a watch have changed since it looked.
#[derive(Default)]
pub(super) struct Inbox {
    /// A bit for each channel.
    changed: [AtomicU64; 2],
    /// Wakes the watch.
    pub(super) waker: AtomicWaker,
}

/// The channels that a watch may have: the bits of an [`Inbox`].
pub(super) const MAX_CHANNELS: usize = 128;

impl Inbox {
    /// Marks a channel as changed.
    pub(super) fn mark(&self, index: u8) {
        let bit = 1 << (index % 64);
        if self.changed[usize::from(index / 64)].fetch_or(bit, AcqRel) & bit == 0 {
            self.waker.wake();
        }
    }

    /// The channels that have changed: a bit for each.
    pub(super) fn take(&self) -> u128 {
        let [low, high] = &self.changed;
        u128::from(low.swap(0, AcqRel)) | u128::from(high.swap(0, AcqRel)) << 64
    }
}
