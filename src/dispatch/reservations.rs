//! Reservations of refused callers: a virtual queue behind the real one.
//!
//! Under a steady overload, each place that becomes free would go to the next caller to arrive, and `retry_after` would be worth
//! nothing. So each refused caller gets a time of its own, spaced by the rate, and a place is held for it around that time. A caller
//! has at most one reservation, however often it is refused, so a flood from one caller does not delay the others. Its further refusals,
//! and those of callers with queued lookups, are spaced by the caller's own rate, and no place is held for them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

const SECOND: u64 = 1_000_000_000;

/// The latest time that callers are given: forecasts beyond it are worthless, and it bounds the table.
const MAX_AHEAD: u64 = 120 * SECOND;

/// A place is held from this long before the caller's time: in a full queue it has to become free first.
const HOLD_BEFORE: u64 = SECOND / 4;

/// The caller may take it from this long before its time: `retry_after` is sent in whole milliseconds.
const EARLY_TOLERANCE: u64 = SECOND / 100;

/// The place is held until this long after the caller's time.
const HOLD_AFTER: u64 = SECOND;

/// Times given without a reservation are remembered by a hash of the caller, in this many slots: 8 KiB a class.
const SPACING_SLOTS: usize = 1024;

/// The most reservations of a class: those of two minutes at 34 lookups a second, 300 KiB.
const MAX_RESERVATIONS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Reservation {
    at: u64,
    caller: u64,
    redeemed: bool,
}

/// The refused callers of one class. Times are in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    /// Ordered by time.
    queue: VecDeque<Reservation>,
    /// The number of each caller's reservation, counted from the beginning.
    numbers: HashMap<u64, u64>,
    /// The number of the first reservation, and of the first whose place is not held yet.
    first: u64,
    next: u64,
    held: u32,
    /// Times given without a reservation, by hash. Empty until the first.
    spaced: Vec<u64>,
}

impl Reservations {
    /// Advances to `now`. Returns the number of places held for callers who should return about now.
    pub(super) fn held(&mut self, now: u64) -> u32 {
        while let Some(front) = self.queue.front()
            && front.at + HOLD_AFTER < now
        {
            let front = *front;
            self.advance(now);
            self.queue.pop_front();
            self.first += 1;
            if !front.redeemed {
                self.held -= 1;
                self.numbers.remove(&front.caller);
            }
        }
        self.advance(now);
        self.held
    }

    /// Starts to hold the places of callers whose time has come.
    fn advance(&mut self, now: u64) {
        while let Some(reservation) = self.get(self.next)
            && reservation.at <= now + HOLD_BEFORE
        {
            self.held += u32::from(!reservation.redeemed);
            self.next += 1;
        }
    }

    /// Whether a place is held for `caller`, who has arrived in time for it. Call [`Self::held`] before.
    pub(super) fn can_redeem(&self, caller: u64, now: u64) -> bool {
        let number = self.numbers.get(&caller);
        let reservation = number.and_then(|number| self.get(*number));
        reservation.is_some_and(|reservation| reservation.at <= now + EARLY_TOLERANCE)
    }

    /// Ends the reservation of a `caller` who was admitted.
    pub(super) fn redeem(&mut self, caller: u64) {
        let Some(number) = self.numbers.remove(&caller) else {
            return;
        };
        self.held -= u32::from(number < self.next);
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_RESERVATIONS")]
        if let Some(reservation) = self.queue.get_mut((number - self.first) as usize) {
            reservation.redeemed = true;
        }
    }

    pub(super) fn has(&self, caller: u64) -> bool {
        self.numbers.contains_key(&caller)
    }

    /// Gives `caller`, who has no reservation, a time to retry: not before `earliest`, and `interval` after the last reservation. The
    /// second value is false if that would be too far off: the time is then random, and nothing is reserved.
    pub(super) fn reserve(
        &mut self,
        caller: u64,
        earliest: u64,
        interval: u64,
        now: u64,
        chance: f64,
    ) -> (u64, bool) {
        let last = self.queue.back().map_or(0, |last| last.at);
        let at = earliest.max(last.saturating_add(interval));
        if at > now + MAX_AHEAD || self.queue.len() >= MAX_RESERVATIONS {
            return (random_time(now, chance), false);
        }
        let number = self.first + self.queue.len() as u64;
        self.numbers.insert(caller, number);
        self.queue.push_back(Reservation {
            at,
            caller,
            redeemed: false,
        });
        (at, true)
    }

    /// Gives `caller` a time to retry without a reservation: not before `earliest`, and `interval` after the last time given to it.
    pub(super) fn space_out(
        &mut self,
        caller: u64,
        earliest: u64,
        interval: u64,
        now: u64,
        chance: f64,
    ) -> u64 {
        if self.spaced.is_empty() {
            self.spaced.resize(SPACING_SLOTS, 0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than SPACING_SLOTS")]
        let last = &mut self.spaced[(caller % SPACING_SLOTS as u64) as usize];
        let at = earliest.max(last.saturating_add(interval));
        if at > now + MAX_AHEAD {
            return random_time(now, chance);
        }
        *last = at;
        at
    }

    fn get(&self, number: u64) -> Option<Reservation> {
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_RESERVATIONS")]
        let index = number.checked_sub(self.first)? as usize;
        self.queue.get(index).copied()
    }
}

/// A random time in the second half of the longest forecast, so that not all callers return at once.
fn random_time(now: u64, chance: f64) -> u64 {
    let part = Duration::from_nanos(MAX_AHEAD / 2).mul_f64(1.0 + chance.clamp(0.0, 1.0));
    now + u64::try_from(part.as_nanos()).unwrap_or(MAX_AHEAD)
}
