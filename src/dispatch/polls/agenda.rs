//! The agenda: when each channel is reviewed, by a clock that stops while polls lag behind and runs faster while the budget has room.

use std::{collections::BTreeSet, hash::Hash};

use super::{Channel, Next, Planner, SECOND, weight};

/// A channel with a longer interval is reviewed at this interval, in case that has become shorter.
const REVIEW_INTERVAL: u64 = 120 * SECOND;

/// The longest lag of the agenda. When polls stop, or are too many for a while, its clock stops, and afterwards polling continues as if
/// that time had not passed. Otherwise all channels would be overdue, and the busiest would have to wait for all others. When there is room
/// in the budget, the clock runs faster.
const MAX_LAG: u64 = 5 * SECOND;

/// How many channels are considered for an early poll.
const LOOKAHEAD: usize = 64;

/// How often to look again while the budget has room and none of those channels may be polled yet. That happens if other replicas poll the
/// same channels.
const LOOKAHEAD_INTERVAL: u64 = SECOND / 50;

/// The most channels to review in one step, which takes some milliseconds.
const MAX_REVIEWS: usize = 1000;

/// The pause before the next step.
const MIN_WAIT: u64 = 1_000_000;

impl<K: Copy + Eq + Hash> Planner<K> {
    /// The channel whose poll is due first, if one is due.
    pub(super) fn overdue(&mut self, now: u64) -> Option<u32> {
        for _ in 0..MAX_REVIEWS {
            let (look_at, index) = self.agenda.first().copied()?;
            let clock = self.clock(now);
            if look_at > clock {
                return None;
            }
            // It may only be due for a review.
            self.add_up_weight(index);
            let wanted = self.weigh(index);
            let allowed = self.allowed_at(index);
            if allowed <= now && wanted <= clock {
                let behind = clock.saturating_sub(look_at).saturating_sub(MAX_LAG);
                self.ahead = self.ahead.saturating_sub_unsigned(behind);
                return Some(index);
            }
            self.put(index, wanted.max(clock + allowed.saturating_sub(now)), now);
        }
        None
    }

    /// Advances the agenda's clock to the next poll, if the budget has room for it and no better use.
    pub(super) fn advance_clock(&mut self, has_first: bool, now: u64) -> Option<u32> {
        if has_first || !self.spread.is_limited() || self.bucket.ready_at(now) > now {
            return None;
        }
        for _ in 0..LOOKAHEAD {
            // Channels that may not be polled yet are skipped, and postponed when the clock has reached them.
            let mut ahead = self.agenda.iter().take(LOOKAHEAD);
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
            // The first may not be polled yet, and those behind it were not all reviewed.
            let blocked = self.allowed_at(*index).min(now + LOOKAHEAD_INTERVAL);
            until = until.min(self.bucket.ready_at(now).max(blocked));
        }
        // There may be more channels to review.
        Next::WaitUntil(self.instant(until.max(now + MIN_WAIT)))
    }

    pub(super) fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead)
    }

    /// The earliest time of a channel's next poll, whatever the agenda says.
    pub(super) fn allowed_at(&self, index: u32) -> u64 {
        let channel = self.channels[index as usize].as_ref();
        channel.map_or(0, |channel| channel.allowed_at(self.limits.every))
    }

    /// Updates a channel after any lookup of it, and plans its next poll.
    pub(super) fn looked_up(
        &mut self,
        key: K,
        now: u64,
        as_poll: bool,
        change: impl FnOnce(&mut Channel<K>),
    ) {
        let clock = self.clock(now);
        let Some((index, channel)) = self.find(key) else {
            return;
        };
        change(channel);
        channel.polled |= as_poll || channel.looked_up.is_some();
        channel.waits = false;
        channel.real_time = now;
        let (before, at) = (channel.looked_up.replace(clock), channel.at);
        self.agenda_of(before).remove(&(at, index));
        let wanted = self.weigh(index);
        self.put(index, wanted, now);
    }

    /// Inserts a channel into the agenda, or moves it.
    pub(super) fn put(&mut self, index: u32, wanted: u64, now: u64) {
        let at = wanted.min(self.clock(now) + REVIEW_INTERVAL);
        if let Some(channel) = &mut self.channels[index as usize] {
            self.agenda.remove(&(channel.at, index));
            channel.at = at;
            self.agenda.insert((at, index));
        }
    }

    pub(super) fn replan(&mut self, index: u32, now: u64) {
        let channel = self.channels[index as usize].as_ref();
        if channel.is_some_and(|channel| channel.looked_up.is_some()) {
            let wanted = self.weigh(index);
            self.put(index, wanted, now);
        }
    }

    /// Updates a channel's weight: its callers may watch more or fewer channels now.
    pub(super) fn add_up_weight(&mut self, index: u32) {
        if let Some(channel) = &mut self.channels[index as usize] {
            let weights = channel.callers.iter().map(|(caller, watches)| {
                let all = self.callers.get(&caller).map_or(1, |of| of.watches);
                weight(watches, all)
            });
            channel.weight = weights.sum();
        }
    }

    /// Computes a channel's importance. Returns when it should be polled next, in agenda time.
    pub(super) fn weigh(&mut self, index: u32) -> u64 {
        let Some(channel) = &mut self.channels[index as usize] else {
            return u64::MAX;
        };
        let importance = channel.compute_importance();
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
