//! Hubs: each watched channel has one, which publishes changes of the channel to its watches.
//!
//! A *hub* applies the outcome of every lookup of its channel to the [`Timeline`], and marks the channel as changed in the [`Inbox`] of
//! each watch. A watch reads the timeline when its reader is ready, so slow readers need no queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Registry, Unit},
};
use slab::Slab;

use super::{
    FeedEntry,
    polling::Polling,
    timeline::{Health, Timeline},
};
use crate::video::{ChannelId, Moment};

/// How many watches are woken before the lock of a hub's watches is released to others: some tens of microseconds.
const WOKEN_AT_ONCE: usize = 256;

/// Histogram buckets for the delay until an upload is noticed, in seconds: from short poll intervals to channels that are polled rarely or
/// have failed for hours.
const DELAYS: [f64; 14] = [
    1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 21_600.0,
];

/// The hubs of all watched channels.
pub(super) struct Hubs {
    /// Held for a lookup or an insertion, never across an `await`. A hub is owned by its watches and removes itself.
    channels: Mutex<HashMap<ChannelId, Weak<Hub>>>,
    /// The number of watched channels, counted once for each watch, and its limit.
    watched: AtomicUsize,
    limit: usize,
    /// Polls the channels.
    pub(super) polling: Polling,
    /// The time from an upload's publication until its hub noticed it.
    notice_delays: Histogram,
}

impl Hubs {
    pub(super) fn new(limit: usize, polling: Polling) -> Self {
        Self {
            channels: Mutex::default(),
            watched: AtomicUsize::new(0),
            limit,
            polling,
            notice_delays: Histogram::new(DELAYS),
        }
    }

    /// Publishes the outcome of a lookup of `channel` to its watches, if there are any.
    pub(super) fn publish(&self, channel: ChannelId, entry: &FeedEntry, health: impl FnOnce() -> Health) {
        if let Some(hub) = self.get(channel) {
            self.polling.looked_up(channel, entry);
            hub.publish(entry, health());
        }
    }

    /// The hub of `channel`; `None` if it is not watched.
    pub(super) fn get(&self, channel: ChannelId) -> Option<Arc<Hub>> {
        self.channels.lock().get(&channel).and_then(Weak::upgrade)
    }

    /// The hub of `channel`, and whether it was created by this call.
    pub(super) fn get_or_create(self: &Arc<Self>, channel: ChannelId) -> (Arc<Hub>, bool) {
        let mut hubs = self.channels.lock();
        if let Some(hub) = hubs.get(&channel).and_then(Weak::upgrade) {
            return (hub, false);
        }
        let hub = Arc::new(Hub {
            channel,
            since: Moment::new(Some(SystemTime::now())),
            timeline: RwLock::default(),
            watches: Mutex::default(),
            polled: Mutex::default(),
            hubs: Arc::clone(self),
        });
        hubs.insert(channel, Arc::downgrade(&hub));
        (hub, true)
    }

    /// Reserves room for a watch of `channels` channels.
    ///
    /// # Errors
    ///
    /// The limit, if it would be exceeded.
    pub(super) fn reserve(self: &Arc<Self>, channels: usize) -> Result<Reservation, usize> {
        let add = |watched: usize| watched.checked_add(channels).filter(|sum| *sum <= self.limit);
        match self.watched.fetch_update(AcqRel, Acquire, add) {
            Ok(_before) => Ok(Reservation {
                hubs: Arc::clone(self),
                channels,
            }),
            Err(_full) => Err(self.limit),
        }
    }

    /// The number of watched channels.
    pub(super) fn len(&self) -> usize {
        self.channels.lock().len()
    }

    /// The watched channels.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.channels.lock().keys().copied().collect()
    }

    /// Whether `channel` is watched.
    pub(super) fn is_watched(&self, channel: ChannelId) -> bool {
        self.channels.lock().contains_key(&channel)
    }

    /// Registers the metrics of hubs and polls.
    pub(super) fn register(&self, registry: &mut Registry) {
        self.polling.register(registry);
        registry.register_with_unit(
            "notice_delay",
            "From an upload's publication until plaque found it, for uploads that appeared while their channel was watched",
            Unit::Seconds,
            self.notice_delays.clone(),
        );
    }

    /// The number of watched channels, counted once for each watch.
    pub(super) fn watched(&self) -> usize {
        self.watched.load(Relaxed)
    }

    /// The number of polls so far.
    pub(super) fn polls(&self) -> u64 {
        self.polling.polls()
    }
}

/// Reserved room for the channels of a watch. Released when dropped.
pub(super) struct Reservation {
    hubs: Arc<Hubs>,
    channels: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.hubs.watched.fetch_sub(self.channels, AcqRel);
    }
}

/// The hub of one watched channel.
pub(super) struct Hub {
    pub(super) channel: ChannelId,
    /// When the first watch began.
    since: Moment,
    /// Written by lookups that have ended. Read by each watch while it looks for its next event.
    timeline: RwLock<Timeline>,
    /// The inbox of each watch, and the index of this channel there. Held while a watch begins or ends, and to wake some watches; never
    /// taken while `timeline` is held.
    watches: Mutex<Slab<(Arc<Inbox>, u8)>>,
    /// When the channel was last polled.
    polled: Mutex<Option<Instant>>,
    hubs: Arc<Hubs>,
}

impl Hub {
    /// Subscribes a watch: changes mark channel `index` in its `inbox`. Returns the slot to pass to [`Self::leave`].
    pub(super) fn join(&self, inbox: &Arc<Inbox>, index: u8) -> usize {
        self.watches.lock().insert((Arc::clone(inbox), index))
    }

    /// Ends a subscription.
    pub(super) fn leave(&self, slot: usize) {
        self.watches.lock().remove(slot);
    }

    /// Records a poll. Returns the time since the previous one.
    pub(super) fn polled(&self, now: Instant) -> Option<Duration> {
        let before = self.polled.lock().replace(now)?;
        Some(now.saturating_duration_since(before))
    }

    /// Removes one watch of a caller from the poll plan.
    pub(super) fn remove_from_plan(&self, caller: u64) {
        self.hubs.polling.remove(self.channel, caller);
    }

    /// Reads the timeline.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Timeline) -> T) -> T {
        read(&self.timeline.read())
    }

    /// Applies the outcome of a lookup and wakes the watches if anything changed.
    fn publish(&self, entry: &FeedEntry, health: Health) {
        let (changed, delays) = {
            let mut timeline = self.timeline.write();
            let is_first = timeline.channel().is_none();
            let (newest, oldest) = (timeline.newest(), timeline.oldest());
            let changed = timeline.apply(entry, health);
            let delays = if is_first {
                Vec::new()
            } else {
                notice_delays(&timeline, newest, oldest.max(self.since))
            };
            (changed, delays)
        };
        for delay in delays {
            self.hubs.notice_delays.observe(delay.as_secs_f64());
        }
        if !changed {
            return;
        }
        // A watch that joins meanwhile has not read the timeline yet. One that leaves frees its slot, and no other watch moves there.
        let mut next = 0;
        loop {
            let watches = self.watches.lock();
            let end = watches.capacity().min(next + WOKEN_AT_ONCE);
            for slot in next..end {
                if let Some((inbox, index)) = watches.get(slot) {
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

/// The delays of uploads with a greater number than `newest` that were published after `since`. This excludes older uploads that moved up
/// in the feed, and those published before the channel was watched.
fn notice_delays(timeline: &Timeline, newest: u32, since: Moment) -> Vec<Duration> {
    let appeared = timeline.shown().filter(|shown| shown.number > newest);
    let published = appeared.filter_map(|shown| timeline.channel()?.upload(shown.index)?.published());
    published
        .filter(|published| Moment::new(Some(*published)) > since)
        // A clock ahead of ours counts as no delay.
        .map(|published| published.elapsed().unwrap_or_default())
        .collect()
}

impl Drop for Hub {
    fn drop(&mut self) {
        let mut hubs = self.hubs.channels.lock();
        // A newer hub of the same channel may be there already, created after the last watch of this one had left.
        let is_mine = |weak: &Weak<Self>| std::ptr::eq(weak.as_ptr(), self);
        if hubs.get(&self.channel).is_some_and(is_mine) {
            hubs.remove(&self.channel);
        }
    }
}

/// The channels of a watch that have changed since it last read them.
#[derive(Default)]
pub(super) struct Inbox {
    /// A bit for each channel.
    changed: [AtomicU64; 2],
    /// Wakes the watch.
    pub(super) waker: AtomicWaker,
}

/// The most channels of a watch: the bits of an [`Inbox`].
pub(super) const MAX_CHANNELS: usize = 128;

impl Inbox {
    /// Marks a channel as changed.
    pub(super) fn mark(&self, index: u8) {
        let bit = 1 << (index % 64);
        if self.changed[usize::from(index / 64)].fetch_or(bit, AcqRel) & bit == 0 {
            self.waker.wake();
        }
    }

    /// Takes the changed channels, as bits.
    pub(super) fn take(&self) -> u128 {
        let [low, high] = &self.changed;
        u128::from(low.swap(0, AcqRel)) | u128::from(high.swap(0, AcqRel)) << 64
    }
}
