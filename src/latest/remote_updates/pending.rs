//! The queue of feeds to load from the store because another replica has saved them. Pure: no I/O, no clock.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::upstream::Feed;

/// Feeds that wait to be loaded, each once, and those that are being loaded.
///
/// Watched feeds come first and are never dropped: their number is bounded by that of watched channels. The queue of other feeds is
/// bounded; when it is full, the oldest is dropped.
#[derive(Debug)]
pub(super) struct Pending {
    watched: Queue,
    others: Queue,
    /// The loads in progress.
    loading: HashMap<Feed, Loading>,
    others_loading: usize,
    limits: Limits,
    dropped: u64,
}

/// Bounds of [`Pending`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Concurrent loads.
    pub(super) loads: usize,
    /// Concurrent loads of feeds that are not watched.
    pub(super) other_loads: usize,
    /// Queued feeds that are not watched.
    pub(super) others: usize,
}

/// Why a feed is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interest {
    /// It is cached here.
    Cached,
    /// It is watched here.
    Watched,
}

#[derive(Debug)]
struct Loading {
    interest: Interest,
    /// Another save was reported during the load, which may have been too early to see it.
    reload: Option<Interest>,
}

/// Feeds in order of arrival, each once.
#[derive(Debug, Default)]
struct Queue {
    members: HashSet<Feed>,
    /// May have removed feeds as well: at most one more than there are members.
    order: VecDeque<Feed>,
}

impl Pending {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            watched: Queue::default(),
            others: Queue::default(),
            loading: HashMap::new(),
            others_loading: 0,
            limits,
            dropped: 0,
        }
    }

    /// Queues `feed`, which another replica has saved, unless it is queued already.
    pub(super) fn add(&mut self, feed: Feed, interest: Interest) {
        if let Some(loading) = self.loading.get_mut(&feed) {
            loading.reload = loading.reload.max(Some(interest));
            return;
        }
        match interest {
            Interest::Watched => {
                self.others.remove(feed);
                self.watched.push(feed);
            }
            Interest::Cached if self.watched.contains(feed) => {}
            Interest::Cached => {
                self.others.push(feed);
                if self.others.len() > self.limits.others {
                    self.others.pop();
                    self.dropped += 1;
                }
            }
        }
    }

    /// The feed to load next, if a load may start. [`Self::loaded`] must follow.
    pub(super) fn next(&mut self) -> Option<Feed> {
        if self.loading.len() >= self.limits.loads {
            return None;
        }
        let (feed, interest) = match self.watched.pop() {
            Some(feed) => (feed, Interest::Watched),
            None if self.others_loading < self.limits.other_loads => (self.others.pop()?, Interest::Cached),
            None => return None,
        };
        self.others_loading += usize::from(interest == Interest::Cached);
        self.loading.insert(
            feed,
            Loading {
                interest,
                reload: None,
            },
        );
        Some(feed)
    }

    /// Ends the load of `feed`.
    pub(super) fn loaded(&mut self, feed: Feed) {
        let Some(loading) = self.loading.remove(&feed) else {
            return;
        };
        self.others_loading -= usize::from(loading.interest == Interest::Cached);
        if let Some(interest) = loading.reload {
            self.add(feed, interest);
        }
    }

    /// The number of feeds dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn contains(&self, feed: Feed) -> bool {
        self.members.contains(&feed)
    }

    fn push(&mut self, feed: Feed) {
        if self.members.insert(feed) {
            self.order.push_back(feed);
        }
    }

    fn pop(&mut self) -> Option<Feed> {
        while let Some(feed) = self.order.pop_front() {
            if self.members.remove(&feed) {
                return Some(feed);
            }
        }
        None
    }

    fn remove(&mut self, feed: Feed) {
        if self.members.remove(&feed) && self.order.len() > 2 * self.members.len() {
            self.order.retain(|feed| self.members.contains(feed));
        }
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
