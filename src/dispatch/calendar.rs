//! A calendar of promises: the queued lookups in buckets by due time.
//!
//! Sums over the buckets answer two questions. May one more lookup be promised, in addition to what was promised already and what is
//! reserved for other classes? May a lookup go out in its fair turn, or would one that is due earlier be late? Both are the feasibility
//! test of earliest-deadline-first scheduling, with times rounded down to buckets.

use super::{
    CLASSES,
    rings::{NIL, Rings},
};

/// A power of two makes wrapping cheap. With a wait of 5 s a bucket is 83 ms.
const BUCKETS: usize = 64;

/// The longest wait takes this many buckets; the rest is for rounding.
const BUCKETS_OF_THE_LONGEST_WAIT: u64 = 60;

/// Shorter buckets would not be worth their number.
const SHORTEST_BUCKET: u64 = 1_000_000;

/// Lookups that can still be promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Headroom {
    /// After all promises and reservations. Negative if more is promised than can be done.
    pub(super) common: f64,
    /// Of the class's guaranteed part.
    pub(super) own: f64,
}

impl Headroom {
    /// The greater of both: other classes cannot use what is left of the guaranteed part.
    pub(super) fn most(self) -> f64 {
        self.common.max(self.own)
    }
}

/// Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Calendar {
    width: u64,
    /// The number of the first bucket: that of `now` at the last call of [`Self::overdue`].
    first: u64,
    counts: [[u32; CLASSES]; BUCKETS],
    heads: [u32; BUCKETS],
    rings: Rings,
}

impl Calendar {
    pub(super) fn new(longest: u64) -> Self {
        Self {
            width: (longest / BUCKETS_OF_THE_LONGEST_WAIT).max(SHORTEST_BUCKET),
            first: 0,
            counts: [[0; CLASSES]; BUCKETS],
            heads: [NIL; BUCKETS],
            rings: Rings::default(),
        }
    }

    /// Inserts the lookup at `index`, of `class`, which is due at `due`: not before now, nor after [`Self::last`].
    pub(super) fn insert(&mut self, index: u32, class: usize, due: u64) {
        let bucket = self.bucket(due);
        self.counts[bucket][class] += 1;
        self.rings.push_back(&mut self.heads[bucket], index);
    }

    /// Removes a lookup that was inserted with the same `due`.
    pub(super) fn remove(&mut self, index: u32, class: usize, due: u64) {
        let bucket = self.bucket(due);
        self.counts[bucket][class] -= 1;
        self.rings.remove(&mut self.heads[bucket], index);
    }

    /// A lookup whose bucket is over. Remove it, and call this again until it returns `None`.
    pub(super) fn overdue(&mut self, now: u64) -> Option<u32> {
        let current = now / self.width;
        // One turn of the wheel visits every bucket.
        for _ in 0..BUCKETS {
            if self.first >= current {
                break;
            }
            let head = self.heads[wrap(self.first)];
            if head != NIL {
                return Some(head);
            }
            self.first += 1;
        }
        self.first = self.first.max(current);
        None
    }

    pub(super) fn earliest(&self) -> Option<u32> {
        let mut heads = (self.first..)
            .take(BUCKETS)
            .map(|number| self.heads[wrap(number)]);
        heads.find(|head| *head != NIL)
    }

    /// When the bucket that is due first will be over.
    pub(super) fn first_over(&self) -> Option<u64> {
        let mut numbers = (self.first..).take(BUCKETS);
        let number = numbers.find(|number| self.heads[wrap(*number)] != NIL)?;
        Some((number + 1) * self.width)
    }

    /// The headroom for one more lookup of `class` that is due at `due`: the minimum over all later times. `capacity` is the number of
    /// lookups that can start within a time from now; `guaranteed` is the part of it that is kept for each class, in whole lookups.
    pub(super) fn headroom(
        &self,
        class: usize,
        due: u64,
        now: u64,
        guaranteed: [f64; CLASSES],
        capacity: impl Fn(u64) -> f64,
    ) -> Headroom {
        let mut sums = [0; CLASSES];
        let mut room = Headroom {
            common: f64::INFINITY,
            own: f64::INFINITY,
        };
        let from = due / self.width;
        for number in self.first..self.first + BUCKETS as u64 {
            let counts = self.counts[wrap(number)];
            if counts != [0; CLASSES] {
                for class in 0..CLASSES {
                    sums[class] += counts[class];
                }
            } else if number != from {
                // Capacity only grows, so empty buckets cannot be the minimum.
                continue;
            }
            if number < from {
                continue;
            }
            let capacity = capacity((number * self.width).saturating_sub(now));
            let mut taken = 0.0;
            for other in 0..CLASSES {
                if other != class {
                    taken += f64::from(sums[other]).max((guaranteed[other] * capacity).floor());
                }
            }
            let mine = f64::from(sums[class]);
            room.common = room.common.min(capacity - taken - mine);
            room.own = room.own.min((guaranteed[class] * capacity).floor() - mine);
        }
        room
    }

    /// Whether everything due before `due` can still be in time if a lookup due at `due` goes out first.
    pub(super) fn can_wait(&self, due: u64, now: u64, capacity: impl Fn(u64) -> f64) -> bool {
        let mut sum = 0;
        let until = (due / self.width).min(self.first + BUCKETS as u64);
        for number in self.first..until {
            let counts = self.counts[wrap(number)];
            if counts == [0; CLASSES] {
                continue;
            }
            sum += counts.iter().sum::<u32>();
            let left = capacity((number * self.width).saturating_sub(now)) - 1.0;
            if f64::from(sum) > left {
                return false;
            }
        }
        true
    }

    /// The latest `due` that has a bucket.
    pub(super) fn last(&self) -> u64 {
        (self.first + BUCKETS as u64) * self.width - 1
    }

    fn bucket(&self, due: u64) -> usize {
        wrap(due / self.width)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than BUCKETS")]
fn wrap(number: u64) -> usize {
    (number % BUCKETS as u64) as usize
}
