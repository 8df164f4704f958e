//! What has happened to the channels that are watched.
//!
//! A watched channel has a *hub*. It hears of every lookup of the channel, whoever asked for it, numbers uploads in the order in
//! which they appear, and publishes its *timeline* through a `tokio::sync::watch` channel, which holds the newest one and nothing
//! else: no queue grows, however slowly anybody reads.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use super::Known;
use crate::{
    upstream::UpstreamError,
    video::{Channel, ChannelId, MAX_UPLOADS, VideoId},
};

/// The IDs that a hub remembers as seen: the feed's 15, and enough more that one which vanishes and comes back is known.
const REMEMBERED: usize = 64;

/// The hubs of all channels that are watched.
#[derive(Default)]
pub(super) struct Hubs {
    /// Held for a lookup or an insertion, never across an `await`. A hub is owned by its watchers, and removes itself.
    hubs: Mutex<HashMap<ChannelId, Weak<Hub>>>,
    polls: AtomicU64,
}

impl Hubs {
    /// Hears of a lookup that has ended.
    pub(super) fn hear(&self, channel: ChannelId, known: &Known) {
        let hub = self.hubs.lock().get(&channel).and_then(Weak::upgrade);
        if let Some(hub) = hub {
            hub.hear(known);
        }
    }

    /// The hub of a channel. If it has none, makes one, which the task that `poll` starts polls.
    pub(super) fn hub(
        self: &Arc<Self>,
        channel: ChannelId,
        poll: impl FnOnce(Weak<Hub>) -> AbortHandle,
    ) -> Arc<Hub> {
        let mut hubs = self.hubs.lock();
        if let Some(hub) = hubs.get(&channel).and_then(Weak::upgrade) {
            return hub;
        }
        let hub = Arc::new(Hub {
            channel,
            timeline: watch::Sender::default(),
            hubs: Arc::clone(self),
            poll: OnceLock::new(),
        });
        hubs.insert(channel, Arc::downgrade(&hub));
        drop(hubs);
        hub.poll.get_or_init(|| poll(Arc::downgrade(&hub)));
        hub
    }

    /// The number of channels that are watched.
    pub(super) fn len(&self) -> usize {
        self.hubs.lock().len()
    }

    /// Whether somebody watches `channel`.
    pub(super) fn is_watched(&self, channel: ChannelId) -> bool {
        self.hubs.lock().contains_key(&channel)
    }

    /// The number of those who watch, once for each channel.
    pub(super) fn watchers(&self) -> usize {
        let hubs = self.hubs.lock();
        let all = hubs.values().filter_map(Weak::upgrade);
        // Out of the lock before they are dropped: the last of a hub's owners takes it.
        let all: Vec<_> = all.collect();
        drop(hubs);
        all.iter().map(|hub| hub.timeline.receiver_count()).sum()
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

/// One watched channel.
pub(super) struct Hub {
    pub(super) channel: ChannelId,
    timeline: watch::Sender<Timeline>,
    hubs: Arc<Hubs>,
    /// Polls the channel. Ended by the hub's drop.
    poll: OnceLock<AbortHandle>,
}

impl Hub {
    /// The timeline, now and from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Timeline> {
        self.timeline.subscribe()
    }

    /// Hears of a lookup that has ended.
    pub(super) fn hear(&self, known: &Known) {
        self.timeline.send_if_modified(|timeline| timeline.hear(known));
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(poll) = self.poll.get() {
            poll.abort();
        }
        let mut hubs = self.hubs.hubs.lock();
        // Under its name there may be a newer hub by now, whose watchers came after this one's last had left.
        let is_mine = |weak: &Weak<Self>| std::ptr::eq(weak.as_ptr(), self);
        if hubs.get(&self.channel).is_some_and(is_mine) {
            hubs.remove(&self.channel);
        }
    }
}

/// What has happened to a channel, as far as its feed still shows it.
#[derive(Clone, Default)]
pub(super) struct Timeline {
    /// The newest good answer.
    pub(super) channel: Option<Arc<Channel>>,
    /// The number of each upload in it.
    pub(super) numbers: Arc<[u64]>,
    /// The number of the newest thing that has happened.
    pub(super) newest: u64,
    /// Uploads that are known, with their numbers; the longest known go first.
    seen: VecDeque<(VideoId, u64)>,
    pub(super) trouble: Option<Trouble>,
    /// When the last lookup ended that it knows of.
    heard: Option<Instant>,
}

/// A channel's lookups fail.
#[derive(Clone)]
pub(super) struct Trouble {
    pub(super) number: u64,
    pub(super) error: UpstreamError,
    pub(super) retry_at: Instant,
}

impl Timeline {
    /// Takes in what a lookup has brought, unless it knows of a later one. Says whether anything has happened.
    fn hear(&mut self, known: &Known) -> bool {
        if self.heard.is_some() && known.last_attempt() <= self.heard {
            return false;
        }
        self.heard = known.last_attempt();
        let before = self.newest;
        if let Some(good) = &known.good {
            self.see(&good.value);
        }
        match known
            .failed
            .as_ref()
            .filter(|failed| !failed.error.is_provisional())
        {
            Some(failed) if self.trouble.is_none() => {
                self.newest += 1;
                self.trouble = Some(Trouble {
                    number: self.newest,
                    error: failed.error.clone(),
                    retry_at: failed.retry_at,
                });
            }
            Some(_) => {}
            None => self.trouble = None,
        }
        self.newest != before
    }

    fn see(&mut self, channel: &Arc<Channel>) {
        if self.channel.as_ref().is_some_and(|old| Arc::ptr_eq(old, channel)) {
            return;
        }
        let oldest = self.oldest_in_reach();
        let mut numbers = vec![0; channel.len()];
        // From the oldest to the newest, so that the numbers have the order of publication.
        for (upload, number) in channel.uploads().zip(&mut numbers).rev() {
            *number = match self.seen.iter().find(|(id, _)| *id == upload.id()) {
                Some((_, number)) => *number,
                // It was in the channel all along, and shows now because a newer one was deleted.
                None if upload.published().is_some() && upload.published() < oldest => 0,
                None => {
                    self.newest += 1;
                    self.seen.push_back((upload.id(), self.newest));
                    self.newest
                }
            };
        }
        while self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        self.numbers = numbers.into();
        self.channel = Some(Arc::clone(channel));
    }

    /// Whatever was published before this has been in the channel before, whether it was seen or not. `None`: the feed was not
    /// full, and so showed all that there was.
    fn oldest_in_reach(&self) -> Option<SystemTime> {
        let channel = self.channel.as_ref()?;
        (channel.len() >= MAX_UPLOADS)
            .then(|| channel.uploads().filter_map(|upload| upload.published()).min())
            .flatten()
    }
}
