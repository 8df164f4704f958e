//! Plans when each watched channel is polled, within a budget.
//!
//! Intervals follow the square-root rule (`polls/spread.rs`), with upload rates estimated from the dates in the feeds
//! (`polls/upload_rate.rs`). A channel's weight is the sum of 1/n² over its callers, where n is the number of channels that the caller
//! watches. So each caller gets the same part of the budget, and a caller with ten thousand channels does not slow down one with ten. A
//! channel takes about 170 bytes, and 8 for each watch if it has several callers; a poll costs O(log n), and all intervals are recomputed
//! once a second if anything has changed.

mod agenda;
mod channel;
mod spread;
mod upload_rate;

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

use self::{
    channel::{Callers, Channel, NO_IMPORTANCE, Standing, next_miss},
    spread::{Histogram, Spread},
};
use super::token_bucket::TokenBucket;

const SECOND: u64 = 1_000_000_000;

/// How often all intervals are recomputed.
const RECOMPUTE_INTERVAL: u64 = SECOND;

/// The limits of polling.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The shortest interval: that of every channel if the budget is large enough.
    pub every: Duration,
    /// The longest interval.
    pub at_most: Duration,
    /// Polls a second; a positive number.
    pub budget: f64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<K> {
    /// Poll this channel, and report the outcome to [`Planner::observed`] or [`Planner::failed`]. Without a report it is polled again after
    /// its interval.
    Poll(K),
    /// Wait until then, or until a channel is added.
    WaitUntil(Instant),
    /// No channel is watched.
    Idle,
}

/// Why a poll failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollFailure {
    /// The channel was not found.
    NotFound,
    /// Any other reason.
    Other,
}

/// Plans the polls of watched channels. `K` identifies a channel.
#[derive(Debug)]
pub struct Planner<K> {
    epoch: Instant,
    limits: Limits,
    bucket: TokenBucket,
    indices: HashMap<K, u32>,
    channels: Vec<Option<Channel<K>>>,
    free: Vec<u32>,
    callers: HashMap<u64, Caller>,
    histogram: Histogram,
    spread: Spread,
    /// When the intervals have to be recomputed; `None` while nothing has changed.
    recompute_at: Option<u64>,
    recomputed_at: u64,
    /// A caller watches twice as many channels as when they were weighed.
    reweigh: bool,
    /// How much the agenda's clock is ahead of the time.
    ahead: i64,
    /// Channels that were polled before, by the agenda time of their next review.
    agenda: BTreeSet<(u64, u32)>,
    /// Channels that were never polled, by their caller's turn.
    first: BTreeSet<(u64, u32)>,
    /// The turn of the last of them.
    turn: u64,
    /// The last poll was a channel's first.
    was_first: bool,
}

#[derive(Debug, Default)]
struct Caller {
    watches: u32,
    /// The turn of the newest of its channels that wait for their first poll.
    turn: u64,
}

impl<K: Copy + Eq + Hash> Planner<K> {
    /// A planner without channels.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let histogram = Histogram::new();
        let spread = spread(&histogram, &limits);
        Self {
            epoch: now,
            bucket: TokenBucket::new(limits.budget, burst(limits.budget)),
            limits,
            indices: HashMap::new(),
            channels: Vec::new(),
            free: Vec::new(),
            callers: HashMap::new(),
            histogram,
            spread,
            recompute_at: None,
            reweigh: false,
            recomputed_at: 0,
            ahead: 0,
            agenda: BTreeSet::new(),
            first: BTreeSet::new(),
            turn: 0,
            was_first: false,
        }
    }

    /// Changes the budget: polls a second, a positive number.
    pub fn set_budget(&mut self, budget: f64, now: Instant) {
        let now = self.nanos(now);
        self.limits.budget = budget;
        self.bucket.change(budget, burst(budget), now);
        self.changed();
    }

    /// Adds a watch of a channel by `caller`, who may already watch it. A channel that was not watched so far is polled at the rate of the
    /// budget, in its caller's turn.
    pub fn insert(&mut self, key: K, caller: u64) {
        let turn = self.turn;
        let of = self.callers.entry(caller).or_default();
        of.watches += 1;
        let weight = weight(1, of.watches);
        // The weights of its other channels are now far too high.
        self.reweigh |= of.watches.is_power_of_two();
        if let Some(index) = self.indices.get(&key).copied() {
            if let Some(channel) = &mut self.channels[index as usize] {
                channel.callers.add(caller);
            }
            self.add_up_weight(index);
            self.weigh(index);
            return;
        }
        of.turn = of.turn.max(turn) + 1;
        let at = of.turn;
        let index = self.free.pop().unwrap_or_else(|| {
            self.channels.push(None);
            u32::try_from(self.channels.len() - 1).unwrap_or(u32::MAX)
        });
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        let rate = upload_rate::PRIOR_RATE as f32;
        self.channels[index as usize] = Some(Channel {
            key,
            callers: Callers::One(caller, 1),
            weight,
            rate,
            importance: NO_IMPORTANCE,
            looked_up: None,
            real_time: 0,
            polled: false,
            waits: false,
            not_before: 0,
            at,
            standing: Standing::Unknown,
        });
        self.indices.insert(key, index);
        self.histogram.add(NO_IMPORTANCE);
        self.weigh(index);
        self.first.insert((at, index));
    }

    /// Removes one watch of a channel by `caller`.
    pub fn remove(&mut self, key: K, caller: u64) {
        let Some((index, channel)) = self.find(key) else {
            return;
        };
        let Some(left) = channel.callers.remove(caller) else {
            return;
        };
        if let Some(of) = self.callers.get_mut(&caller) {
            of.watches -= 1;
            if of.watches == 0 {
                self.callers.remove(&caller);
            }
        }
        if left > 0 {
            self.add_up_weight(index);
            self.weigh(index);
            return;
        }
        if let Some(channel) = self.channels[index as usize].take() {
            self.histogram.remove(channel.importance);
            self.agenda_of(channel.looked_up).remove(&(channel.at, index));
        }
        self.indices.remove(&key);
        self.free.push(index);
        self.changed();
    }

    /// Records what a channel's feed showed at `now`, which may be in the past, after any lookup: the ages of its uploads, in any order.
    pub fn observed(&mut self, key: K, ages: impl IntoIterator<Item = Duration>, now: Instant) {
        self.set_rate(key, upload_rate::from_ages(ages), now);
    }

    /// Sets a channel's rate, in uploads a second.
    fn set_rate(&mut self, key: K, rate: f64, now: Instant) {
        let now = self.nanos(now);
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        self.looked_up(key, now, false, |channel| {
            channel.rate = rate as f32;
            channel.not_before = 0;
            channel.standing = Standing::Found;
        });
    }

    /// Records that a lookup of a channel failed at `now`, which may be in the past. It is polled again when both `retry_after` and its
    /// interval are over.
    pub fn failed(&mut self, key: K, why: PollFailure, retry_after: Option<Duration>, now: Instant) {
        let now = self.nanos(now);
        let pause = u64::try_from(retry_after.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let (every, at_most) = self.limits.seconds();
        self.looked_up(key, now, false, |channel| {
            channel.not_before = now.saturating_add(pause);
            let misses = match channel.standing {
                Standing::Unknown if why == PollFailure::NotFound => 0,
                // The same failure may be reported several times.
                Standing::NotFound(misses) if why == PollFailure::NotFound && now > channel.real_time => {
                    misses
                }
                _ => return,
            };
            channel.standing = Standing::NotFound(next_miss(misses, every, at_most));
        });
    }

    /// Records that the last poll of a channel got no permit: it is polled again after `retry_after`, whatever its interval.
    pub fn refused(&mut self, key: K, retry_after: Duration, now: Instant) {
        let now = self.nanos(now);
        let pause = u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX);
        let Some((index, channel)) = self.find(key) else {
            return;
        };
        // If it was removed and added again meanwhile, it already waits for its first poll.
        if channel.looked_up.is_some() {
            channel.waits = true;
            channel.not_before = now.saturating_add(pause);
            self.put(index, self.clock(now).saturating_add(pause), now);
        }
    }

    /// Returns a poll that needed no lookup: another may use its place in the budget.
    pub fn return_poll(&mut self) {
        self.bucket.give_back();
    }

    /// What to do next. Call it until it returns a wait; call it again at that time, and when a channel was added.
    pub fn next(&mut self, now: Instant) -> Next<K> {
        let now = self.nanos(now);
        self.recompute(now);
        let first = self.first.first().copied();
        let due = self
            .overdue(now)
            .or_else(|| self.advance_clock(first.is_some(), now));
        if due.is_none() && first.is_none() {
            return self.wait(now);
        }
        let ready = self.bucket.ready_at(now);
        if ready > now {
            return Next::WaitUntil(self.instant(ready));
        }
        // Alternate while there are both.
        let index = match (due, first) {
            (Some(index), _) if first.is_none() || self.was_first => index,
            (_, Some((turn, index))) => {
                self.turn = turn;
                index
            }
            (_, None) => return Next::Idle,
        };
        self.was_first = due != Some(index);
        let Some(channel) = &self.channels[index as usize] else {
            return Next::Idle;
        };
        let key = channel.key;
        self.bucket.take(now);
        self.looked_up(key, now, true, |_| {});
        Next::Poll(key)
    }

    /// The current interval of a channel.
    pub fn interval(&self, key: K) -> Option<Duration> {
        let channel = self.channel(key)?;
        let interval = self.spread.interval(channel.importance);
        Some(Duration::from_secs_f64(
            interval.max(channel.back_off(self.limits.seconds())),
        ))
    }

    /// One of the callers who watch a channel.
    #[must_use]
    pub fn caller(&self, key: K) -> Option<u64> {
        let mut callers = self.channel(key)?.callers.iter();
        callers.next().map(|(caller, _watches)| caller)
    }

    /// The number of watched channels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether no channel is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    fn channel(&self, key: K) -> Option<&Channel<K>> {
        self.channels[*self.indices.get(&key)? as usize].as_ref()
    }

    fn find(&mut self, key: K) -> Option<(u32, &mut Channel<K>)> {
        let index = *self.indices.get(&key)?;
        Some((index, self.channels[index as usize].as_mut()?))
    }

    fn changed(&mut self) {
        self.recompute_at
            .get_or_insert(self.recomputed_at + RECOMPUTE_INTERVAL);
    }

    /// Recomputes all intervals if it is time.
    fn recompute(&mut self, now: u64) {
        if self.recompute_at.is_some_and(|recompute_at| recompute_at <= now) {
            let all = 0..u32::try_from(self.channels.len()).unwrap_or(u32::MAX);
            let reweigh = std::mem::take(&mut self.reweigh);
            if reweigh {
                for index in all.clone() {
                    self.add_up_weight(index);
                    self.weigh(index);
                }
            }
            self.spread = spread(&self.histogram, &self.limits);
            if reweigh {
                for index in all {
                    self.replan(index, now);
                }
            }
            self.recompute_at = None;
            self.recomputed_at = now;
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn instant(&self, at: u64) -> Instant {
        self.epoch
            .checked_add(Duration::from_nanos(at))
            .unwrap_or(self.epoch)
    }
}

impl Limits {
    /// The shortest and the longest interval, in seconds.
    fn seconds(&self) -> (f64, f64) {
        let every = self.every.as_secs_f64().max(0.001);
        (every, self.at_most.as_secs_f64().max(every))
    }
}

/// What a caller's `watches` of a channel add to its weight, if the caller has `all` watches.
fn weight(watches: u32, all: u32) -> f64 {
    (f64::from(watches) / f64::from(all)).powi(2)
}

fn spread(histogram: &Histogram, limits: &Limits) -> Spread {
    let (every, at_most) = limits.seconds();
    histogram.spread(limits.budget, every, at_most)
}

/// The burst: polls of a tenth of a second, so that a planner that is called a little late does not fall behind.
fn burst(budget: f64) -> f64 {
    (0.1 * budget).max(2.0)
}

#[cfg(test)]
mod tests;
