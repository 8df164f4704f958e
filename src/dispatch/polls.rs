//! When each watched channel is polled: as often as its uploads are worth, within a budget.
//!
//! Intervals follow the square-root rule (`polls/spread.rs`) over upload rates that the feeds' own dates tell (`polls/upload_rate.rs`).
//! A channel's weight is 1/n² for each caller that watches it among n: so each caller gets the same part of the budget, whatever n is,
//! and who watches ten thousand channels does not slow down who watches ten.
//! A channel takes some 170 bytes, and each watch of it 8 if they are of several callers; a poll costs O(log n), and all intervals are settled
//! anew once a second if anything has changed.

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
    channel::{BACKED_OFF, Callers, Channel, NO_IMPORTANCE, Standing},
    spread::{Histogram, Spread},
};
use super::token_bucket::TokenBucket;

const SECOND: u64 = 1_000_000_000;

/// How often all intervals are settled anew.
const SETTLED_FOR: u64 = SECOND;

/// What polls may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The shortest interval: what every channel gets if there is room for all.
    pub every: Duration,
    /// The longest.
    pub at_most: Duration,
    /// Polls a second; a positive number.
    pub budget: f64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<K> {
    /// Poll it. What comes of it should be told to [`Planner::observed`] or [`Planner::failed`]; if it is not, the channel is
    /// polled again after its interval all the same.
    Poll(K),
    /// Nothing until then, unless a channel is added before.
    WaitUntil(Instant),
    /// No channel is watched.
    Idle,
}

/// Why a poll brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// There is no such channel, as far as anybody can tell.
    NotFound,
    /// Anything else.
    Other,
}

/// Plans the polls of the channels that are watched. `K` names a channel.
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
    /// When that has to be made anew; `None` while nothing has changed.
    stale_at: Option<u64>,
    settled: u64,
    /// A caller watches twice as many channels as when they were weighed.
    reweigh: bool,
    /// How much the agenda's clock is ahead.
    ahead: i64,
    /// Channels that were polled, by when they are to be looked at by that clock.
    agenda: BTreeSet<(u64, u32)>,
    /// Channels that never were, by the turn of a caller of theirs.
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
    /// A planner of no channels.
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
            stale_at: None,
            reweigh: false,
            settled: 0,
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

    /// Takes in that `caller` watches a channel: once more, if it does already. A channel that nobody has watched so far is polled in
    /// its caller's turn, at the rate of the budget.
    pub fn insert(&mut self, key: K, caller: u64) {
        let turn = self.turn;
        let of = self.callers.entry(caller).or_default();
        of.watches += 1;
        let weight = weight(1, of.watches);
        // What its channels weighed before is far too much by now.
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
        let rate = upload_rate::UNKNOWN as f32;
        self.channels[index as usize] = Some(Channel {
            key,
            callers: Callers::One(caller, 1),
            weight,
            rate,
            importance: NO_IMPORTANCE,
            looked_up: None,
            really: 0,
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

    /// Takes in that `caller` watches a channel no longer, or once less.
    pub fn remove(&mut self, key: K, caller: u64) {
        let Some(index) = self.indices.get(&key).copied() else {
            return;
        };
        let Some(channel) = &mut self.channels[index as usize] else {
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

    /// Takes in what a channel's feed showed at `now`, which may be past, whoever has looked it up: the ages of its uploads, in any
    /// order.
    pub fn observed(&mut self, key: K, ages: impl IntoIterator<Item = Duration>, now: Instant) {
        self.rated(key, upload_rate::from_ages(ages), now);
    }

    /// Takes in a channel's uploads a second.
    fn rated(&mut self, key: K, rate: f64, now: Instant) {
        let now = self.nanos(now);
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        self.looked_up(key, now, false, |channel| {
            channel.rate = rate as f32;
            channel.not_before = 0;
            channel.standing = Standing::Found;
        });
    }

    /// Takes in that a lookup of a channel has failed at `now`, which may be past. It is not polled again before `retry_after` and its
    /// interval are over.
    pub fn failed(&mut self, key: K, why: Failed, retry_after: Option<Duration>, now: Instant) {
        let now = self.nanos(now);
        let pause = u64::try_from(retry_after.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let (every, at_most) = self.limits.seconds();
        self.looked_up(key, now, false, |channel| {
            channel.not_before = now.saturating_add(pause);
            let misses = match channel.standing {
                Standing::Unknown if why == Failed::NotFound => 0,
                // The same failure may be told several times.
                Standing::NotFound(misses) if why == Failed::NotFound && now > channel.really => misses,
                _ => return,
            };
            channel.standing = Standing::NotFound(next_miss(misses, every, at_most));
        });
    }

    /// Takes in that the last poll of a channel got no turn: it is polled again after `retry_after`, whatever its interval.
    pub fn no_turn(&mut self, key: K, retry_after: Duration, now: Instant) {
        let now = self.nanos(now);
        let pause = u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX);
        let Some(index) = self.indices.get(&key).copied() else {
            return;
        };
        let Some(channel) = &mut self.channels[index as usize] else {
            return;
        };
        // One that was forgotten and added again meanwhile is among the first already.
        if channel.looked_up.is_some() {
            channel.waits = true;
            channel.not_before = now.saturating_add(pause);
            self.put(index, self.clock(now).saturating_add(pause), now);
        }
    }

    /// Takes back a poll for which nothing was looked up: another may have its place in the budget.
    pub fn give_back(&mut self) {
        self.bucket.give_back();
    }

    /// What to do next. To be called until it says to wait; and again when that time has come, or a channel has been added.
    pub fn next(&mut self, now: Instant) -> Next<K> {
        let now = self.nanos(now);
        self.settle(now);
        let first = self.first.first().copied();
        let due = self.overdue(now).or_else(|| self.hasten(first.is_some(), now));
        if due.is_none() && first.is_none() {
            return self.wait(now);
        }
        let ready = self.bucket.ready_at(now);
        if ready > now {
            return Next::WaitUntil(self.instant(ready));
        }
        // One of each, while there are both.
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

    /// The interval at which a channel is polled, as things are.
    pub fn interval(&self, key: K) -> Option<Duration> {
        let index = self.indices.get(&key)?;
        let channel = self.channels[*index as usize].as_ref()?;
        let interval = self.spread.interval(channel.importance);
        Some(Duration::from_secs_f64(
            interval.max(channel.back_off(self.limits.seconds())),
        ))
    }

    /// Channels that are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether no channel is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    fn changed(&mut self) {
        self.stale_at.get_or_insert(self.settled + SETTLED_FOR);
    }

    /// Settles all intervals anew, if it is time.
    fn settle(&mut self, now: u64) {
        if self.stale_at.is_some_and(|stale_at| stale_at <= now) {
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
            self.stale_at = None;
            self.settled = now;
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
    /// The shortest and the longest interval.
    fn seconds(&self) -> (f64, f64) {
        let every = self.every.as_secs_f64().max(0.001);
        (every, self.at_most.as_secs_f64().max(every))
    }
}

/// One more lookup that has not found a channel, after so many.
fn next_miss(misses: u8, every: f64, at_most: f64) -> u8 {
    let misses = (misses + 1).min(BACKED_OFF);
    if every * f64::from(1 << (misses - 1)) < at_most {
        misses
    } else {
        BACKED_OFF
    }
}

/// What so many of a caller's `all` watches give to the channel that they are of.
fn weight(watches: u32, all: u32) -> f64 {
    (f64::from(watches) / f64::from(all)).powi(2)
}

fn spread(histogram: &Histogram, limits: &Limits) -> Spread {
    let (every, at_most) = limits.seconds();
    histogram.spread(limits.budget, every, at_most)
}

/// A tenth of a second's worth at once, so that a planner which is asked a little late does not fall behind.
fn burst(budget: f64) -> f64 {
    (0.1 * budget).max(2.0)
}

#[cfg(test)]
mod tests;
