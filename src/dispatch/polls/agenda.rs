//! When which channel is looked at, by a clock that stops while polls are behind and runs while the budget has room.

use std::{collections::BTreeSet, hash::Hash};

use super::{Channel, Next, Planner, SECOND, weight};

/// A channel that waits for longer is looked at again after this time: its interval may have become shorter.
const LOOKED_AT_EVERY: u64 = 120 * SECOND;

/// The agenda is never further behind than this. When polls come to a halt, or there are too many for a while, its clock stops:
/// afterwards all goes on as if that time had not been. Otherwise every channel would be overdue, and the busiest would have to wait
/// until all others had had their turn. When there is more room for a while, the clock runs faster.
const BEHIND: u64 = 5 * SECOND;

/// And when it is looked whether one can be polled early.
const LOOKS_AHEAD: usize = 64;

/// How often it is looked while the budget has room and those that were looked at may not be polled yet. That is so where other
/// replicas poll the same channels.
const LOOKS_AHEAD_EVERY: u64 = SECOND / 50;

/// How many channels are looked at in one step at most: some milliseconds.
const LOOKS: usize = 1000;

/// Before it goes on with them.
const SHORTEST_WAIT: u64 = 1_000_000;

impl<K: Copy + Eq + Hash> Planner<K> {
    /// The channel whose poll is due first, if one is due.
    pub(super) fn overdue(&mut self, now: u64) -> Option<u32> {
        for _ in 0..LOOKS {
            let (look_at, index) = self.agenda.first().copied()?;
            let clock = self.clock(now);
            if look_at > clock {
                return None;
            }
            // It may only be there to be looked at.
            self.add_up_weight(index);
            let wanted = self.weigh(index);
            let allowed = self.allowed_at(index);
            if allowed <= now && wanted <= clock {
                let behind = clock.saturating_sub(look_at).saturating_sub(BEHIND);
                self.ahead = self.ahead.saturating_sub_unsigned(behind);
                return Some(index);
            }
            self.put(index, wanted.max(clock + allowed.saturating_sub(now)), now);
        }
        None
    }

    /// Puts the agenda's clock forward to the next poll, if the budget has room for it and no better use.
    pub(super) fn hasten(&mut self, has_first: bool, now: u64) -> Option<u32> {
        if has_first || !self.spread.is_limited() || self.bucket.ready_at(now) > now {
            return None;
        }
        for _ in 0..LOOKS_AHEAD {
            // Those that may not be polled yet are passed, and put off when the clock has come to them.
            let mut ahead = self.agenda.iter().take(LOOKS_AHEAD);
            let (look_at, _) = ahead.find(|(_, index)| self.allowed_at(*index) <= now)?;
            let early = look_at.saturating_sub(self.clock(now));
            self.ahead = self.ahead.saturating_add_unsigned(early);
            if let Some(due) = self.overdue(now) {
                return Some(due);
            }
        }
        None
    }

    pub(super) fn wait(&self, now: u64) -> Next<K> {
        let Some((look_at, index)) = self.agenda.first() else {
            return Next::Idle;
        };
        let mut until = now + look_at.saturating_sub(self.clock(now));
        if self.spread.is_limited() {
            // The first may be blocked, and those behind it were not all looked at.
            let blocked = self.allowed_at(*index).min(now + LOOKS_AHEAD_EVERY);
            until = until.min(self.bucket.ready_at(now).max(blocked));
        }
        // There may be more to look at than was looked at.
        Next::WaitUntil(self.instant(until.max(now + SHORTEST_WAIT)))
    }

    /// The agenda's clock.
    pub(super) fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead)
    }

    /// Before when a channel is not polled, whatever the agenda says.
    pub(super) fn allowed_at(&self, index: u32) -> u64 {
        let channel = self.channels[index as usize].as_ref();
        channel.map_or(0, |channel| channel.allowed_at(self.limits.every))
    }

    /// Changes what is known of a channel that is or was looked up, as a poll or not, and plans its next poll.
    pub(super) fn looked_up(
        &mut self,
        key: K,
        now: u64,
        as_poll: bool,
        change: impl FnOnce(&mut Channel<K>),
    ) {
        let clock = self.clock(now);
        let Some(index) = self.indices.get(&key).copied() else {
            return;
        };
        let Some(channel) = &mut self.channels[index as usize] else {
            return;
        };
        change(channel);
        channel.polled |= as_poll || channel.looked_up.is_some();
        channel.waits = false;
        channel.really = now;
        let (before, at) = (channel.looked_up.replace(clock), channel.at);
        self.agenda_of(before).remove(&(at, index));
        let wanted = self.weigh(index);
        self.put(index, wanted, now);
    }

    /// Puts a channel that was looked up on the agenda, or elsewhere on it.
    pub(super) fn put(&mut self, index: u32, wanted: u64, now: u64) {
        let at = wanted.min(self.clock(now) + LOOKED_AT_EVERY);
        if let Some(channel) = &mut self.channels[index as usize] {
            self.agenda.remove(&(channel.at, index));
            channel.at = at;
            self.agenda.insert((at, index));
        }
    }

    /// Puts a channel that was looked up where it belongs on the agenda.
    pub(super) fn replan(&mut self, index: u32, now: u64) {
        let channel = self.channels[index as usize].as_ref();
        if channel.is_some_and(|channel| channel.looked_up.is_some()) {
            let wanted = self.weigh(index);
            self.put(index, wanted, now);
        }
    }

    /// Takes in how many channels its callers watch by now.
    pub(super) fn add_up_weight(&mut self, index: u32) {
        if let Some(channel) = &mut self.channels[index as usize] {
            let weights = channel.callers.iter().map(|(caller, watches)| {
                let all = self.callers.get(&caller).map_or(1, |of| of.watches);
                weight(watches, all)
            });
            channel.weight = weights.sum();
        }
    }

    /// Works out a channel's importance. Returns when it wants to be polled next, by the agenda's clock.
    pub(super) fn weigh(&mut self, index: u32) -> u64 {
        let Some(channel) = &mut self.channels[index as usize] else {
            return u64::MAX;
        };
        let importance = channel.worth();
        let before = std::mem::replace(&mut channel.importance, importance);
        let wanted = channel.due(index, self.spread.interval(importance), self.limits.seconds());
        if (before - importance).abs() > 1e-3 * before {
            self.histogram.remove(before);
            self.histogram.add(importance);
            self.changed();
        } else {
            channel.importance = before;
        }
        wanted
    }

    pub(super) fn agenda_of(&mut self, looked_up: Option<u64>) -> &mut BTreeSet<(u64, u32)> {
        match looked_up {
            None => &mut self.first,
            Some(_) => &mut self.agenda,
        }
    }
}
