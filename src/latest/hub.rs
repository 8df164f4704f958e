//! The channels that are watched, and who watches them.
//!
//! A watched channel has a *hub*, whoever watches it. It takes in every lookup of the channel, whoever asked for it, keeps the
//! [`Timeline`], and marks the channel as changed in the [`Inbox`] of each watch. A watch reads the timeline when it gets to it: no
//! queue grows, however slowly anybody reads.

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
    Known,
    polling::Polling,
    timeline::{Health, Timeline},
};
use crate::video::{ChannelId, Moment};

/// Watches that are woken before others get a hub's list: some tens of microseconds.
const WOKEN_AT_ONCE: usize = 256;

/// The bounds of how late uploads are noticed, in seconds: from the best that a short interval can do to a channel whose polls are far
/// apart, or have failed for hours.
const DELAYS: [f64; 14] = [
    1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 21_600.0,
];

/// The hubs of all channels that are watched.
pub(super) struct Hubs {
    /// Held for a lookup or an insertion, never across an `await`. A hub is owned by its watches, and removes itself.
    channels: Mutex<HashMap<ChannelId, Weak<Hub>>>,
    /// Watched channels, counted once for each watch; and how many there may be.
    watched: AtomicUsize,
    limit: usize,
    /// When each is polled. Told of every lookup of a watched channel.
    pub(super) polling: Polling,
    /// From an upload's publication to when its hub took it in.
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

    /// Takes in a lookup that has ended.
    pub(super) fn publish(&self, channel: ChannelId, known: &Known, health: impl FnOnce() -> Health) {
        if let Some(hub) = self.get(channel) {
            self.polling.looked_up(channel, known);
            hub.publish(known, health());
        }
    }

    /// The hub of a channel that is watched.
    pub(super) fn get(&self, channel: ChannelId) -> Option<Arc<Hub>> {
        self.channels.lock().get(&channel).and_then(Weak::upgrade)
    }

    /// The hub of a channel, and whether it was made just now.
    pub(super) fn get_or_make(self: &Arc<Self>, channel: ChannelId) -> (Arc<Hub>, bool) {
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

    /// Makes what is measured known to whoever reads `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        self.polling.register(registry);
        registry.register_with_unit(
            "notice_delay",
            "From an upload's publication to when it was noticed, of those that appeared while watched",
            Unit::Seconds,
            self.notice_delays.clone(),
        );
    }

    /// The number of watched channels, counted once for each watch.
    pub(super) fn watched(&self) -> usize {
        self.watched.load(Relaxed)
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
    /// When somebody began to watch it.
    since: Moment,
    /// Written by lookups that have ended, read by each watch for as long as it takes to find its next event.
    timeline: RwLock<Timeline>,
    /// Who watches, and as which of its channels. Held by a watch that begins or ends, and to wake some of them; taken while
    /// `timeline` is not.
    watches: Mutex<Slab<(Arc<Inbox>, u8)>>,
    /// When it was last polled.
    polled: Mutex<Option<Instant>>,
    hubs: Arc<Hubs>,
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

    /// Takes in that it is polled at `now`. Returns how long ago that was the last time.
    pub(super) fn polled(&self, now: Instant) -> Option<Duration> {
        let before = self.polled.lock().replace(now)?;
        Some(now.saturating_duration_since(before))
    }

    /// Takes in that a caller watches the channel no longer, or once less.
    pub(super) fn unplan(&self, caller: u64) {
        self.hubs.polling.remove(self.channel, caller);
    }

    /// Looks at the timeline.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Timeline) -> T) -> T {
        look(&self.timeline.read())
    }

    /// Takes in a lookup that has ended.
    fn publish(&self, known: &Known, health: Health) {
        let (changed, delays) = {
            let mut timeline = self.timeline.write();
            let is_first = timeline.channel().is_none();
            let (newest, oldest) = (timeline.newest(), timeline.oldest());
            let changed = timeline.apply(known, health);
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

/// How late those uploads are noticed that appeared after the one with the number `newest` and were published after `since`: no older
/// ones that moved up, and none that somebody could have noticed before the channel was watched.
fn notice_delays(timeline: &Timeline, newest: u32, since: Moment) -> Vec<Duration> {
    let appeared = timeline.shown().filter(|shown| shown.number > newest);
    let published = appeared.filter_map(|shown| timeline.channel()?.upload(shown.index)?.published());
    published
        .filter(|published| Moment::new(Some(*published)) > since)
        // A clock that is ahead of ours makes no delay.
        .map(|published| published.elapsed().unwrap_or_default())
        .collect()
}

impl Drop for Hub {
    fn drop(&mut self) {
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
