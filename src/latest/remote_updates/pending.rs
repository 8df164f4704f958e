//! Which feeds are to be loaded from the store because another replica has saved them, and in which order. Pure: no I/O, no clock.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::upstream::Feed;

/// Feeds that wait to be loaded, each once; and those that are being loaded.
///
/// Watched feeds come first, and none of them is lost: there are no more than watched channels. The number of others is bounded, and
/// the oldest of them is dropped for a new one.
#[derive(Debug)]
pub(super) struct Pending {
    watched: Line,
    others: Line,
    /// What is being loaded, and what became of it since its load began.
    loading: HashMap<Feed, Loading>,
    others_loading: usize,
    limits: Limits,
    lost: u64,
}

/// Bounds of [`Pending`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Feeds loaded at once.
    pub(super) loads: usize,
    /// Feeds loaded at once that nobody watches.
    pub(super) other_loads: usize,
    /// Feeds that wait and that nobody watches.
    pub(super) others: usize,
}

/// Who wants a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interest {
    /// Somebody has asked for it.
    Cached,
    /// Somebody watches it.
    Watched,
}

#[derive(Debug)]
struct Loading {
    interest: Interest,
    /// It was saved once more meanwhile: the load may have been too early to see that.
    again: Option<Interest>,
}

/// Feeds in the order in which they came, each once.
#[derive(Debug, Default)]
struct Line {
    members: HashSet<Feed>,
    /// Has entries of feeds that have left, too: at most as many as there are members, and one.
    order: VecDeque<Feed>,
}

impl Pending {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            watched: Line::default(),
            others: Line::default(),
            loading: HashMap::new(),
            others_loading: 0,
            limits,
            lost: 0,
        }
    }

    /// Another replica has saved `feed`. Merged with what waits already.
    pub(super) fn add(&mut self, feed: Feed, interest: Interest) {
        if let Some(loading) = self.loading.get_mut(&feed) {
            loading.again = loading.again.max(Some(interest));
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
                    self.lost += 1;
                }
            }
        }
    }

    /// The feed to load now, if there is one and a load may begin. [`Self::loaded`] has to follow.
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
                again: None,
            },
        );
        Some(feed)
    }

    /// The load of `feed` is over, and what it brought is applied.
    pub(super) fn loaded(&mut self, feed: Feed) {
        let Some(loading) = self.loading.remove(&feed) else {
            return;
        };
        self.others_loading -= usize::from(loading.interest == Interest::Cached);
        if let Some(interest) = loading.again {
            self.add(feed, interest);
        }
    }

    /// How many feeds were dropped since this was asked last.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl Line {
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
