//! When refused callers were told to come again: a virtual queue behind the real one.
//!
//! Under steady overload every place that becomes free is taken at once by whoever happens to come then, so that "come again in
//! T" would be worth nothing. Each refused caller therefore gets a time of its own, spaced by the rate, and for who comes at its
//! time a place is held free for a moment. A caller has one reservation at a time, however often it is refused: a flood of one
//! caller's does not push others' times back. Its further calls, and those of a caller that has lookups in line, are spaced by that
//! caller's own rate, and nothing is held for them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

const SECOND: u64 = 1_000_000_000;

/// Nobody is told to come later than that: no forecast is better, and the book stays small.
const LATEST: u64 = 120 * SECOND;

/// A place is held so much ahead of its caller's time: in a line that is full it first has to become free.
const EARLY: u64 = SECOND / 4;

/// It is given so much ahead of that time: pauses are told in whole milliseconds.
const PUNCTUAL: u64 = SECOND / 100;

/// And for so long after it.
const LATE: u64 = SECOND;

/// What callers were told without a reservation is remembered by the hash of the caller, in so many numbers: 8 KiB a class.
const SPACED: usize = 1024;

/// Reservations a class: those of two minutes at 34 lookups a second, 300 KiB.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Reservation {
    at: u64,
    caller: u64,
    kept: bool,
}

/// One class's refused callers. Times are nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// In order of time.
    reservations: VecDeque<Reservation>,
    /// Each caller's reservation, as its number since the beginning.
    numbers: HashMap<u64, u64>,
    /// The number of the first in `reservations`, and of the first whose place is not held yet.
    first: u64,
    next: u64,
    /// Places that are held.
    held: u32,
    /// By the hash of the caller. Empty until somebody is refused.
    spaced: Vec<u64>,
}

impl Returns {
    /// Takes in that it is `now`. Returns how many places are held for callers who should come about now.
    pub(super) fn held(&mut self, now: u64) -> u32 {
        while let Some(front) = self.reservations.front()
            && front.at + LATE < now
        {
            let front = *front;
            self.advance(now);
            self.reservations.pop_front();
            self.first += 1;
            if !front.kept {
                self.held -= 1;
                self.numbers.remove(&front.caller);
            }
        }
        self.advance(now);
        self.held
    }

    /// Begins to hold places for those whose time has come.
    fn advance(&mut self, now: u64) {
        while let Some(reservation) = self.get(self.next)
            && reservation.at <= now + EARLY
        {
            self.held += u32::from(!reservation.kept);
            self.next += 1;
        }
    }

    /// Whether a place is held for `caller`, and it has come for it and not before. After [`Self::held`].
    pub(super) fn has_place(&self, caller: u64, now: u64) -> bool {
        let number = self.numbers.get(&caller);
        let reservation = number.and_then(|number| self.get(*number));
        reservation.is_some_and(|reservation| reservation.at <= now + PUNCTUAL)
    }

    /// Takes in that `caller` has come and got in: its place need not be held any longer.
    pub(super) fn keep(&mut self, caller: u64) {
        let Some(number) = self.numbers.remove(&caller) else {
            return;
        };
        self.held -= u32::from(number < self.next);
        #[expect(clippy::cast_possible_truncation, reason = "at most MOST")]
        if let Some(reservation) = self.reservations.get_mut((number - self.first) as usize) {
            reservation.kept = true;
        }
    }

    /// Whether `caller` has a reservation.
    pub(super) fn has(&self, caller: u64) -> bool {
        self.numbers.contains_key(&caller)
    }

    /// When `caller`, which has no reservation, should come again: at `earliest`, and `interval` after whoever was told last. The
    /// second value says whether it has one now. It has not if that is too far off: the time is then anything up to the latest.
    pub(super) fn reserve(
        &mut self,
        caller: u64,
        earliest: u64,
        interval: u64,
        now: u64,
        chance: f64,
    ) -> (u64, bool) {
        let last = self.reservations.back().map_or(0, |last| last.at);
        let at = earliest.max(last.saturating_add(interval));
        if at > now + LATEST || self.reservations.len() >= MOST {
            return (some_time(now, chance), false);
        }
        let number = self.first + self.reservations.len() as u64;
        self.numbers.insert(caller, number);
        self.reservations.push_back(Reservation {
            at,
            caller,
            kept: false,
        });
        (at, true)
    }

    /// When `caller` should come again without a reservation: at `earliest`, and `interval` after it was last told.
    pub(super) fn space(&mut self, caller: u64, earliest: u64, interval: u64, now: u64, chance: f64) -> u64 {
        if self.spaced.is_empty() {
            self.spaced.resize(SPACED, 0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than SPACED")]
        let last = &mut self.spaced[(caller % SPACED as u64) as usize];
        let at = earliest.max(last.saturating_add(interval));
        if at > now + LATEST {
            return some_time(now, chance);
        }
        *last = at;
        at
    }

    fn get(&self, number: u64) -> Option<Reservation> {
        #[expect(clippy::cast_possible_truncation, reason = "at most MOST")]
        let index = number.checked_sub(self.first)? as usize;
        self.reservations.get(index).copied()
    }
}

/// In half of the latest to the latest: nobody knows when, and not all should come at once.
fn some_time(now: u64, chance: f64) -> u64 {
    let part = Duration::from_nanos(LATEST / 2).mul_f64(1.0 + chance.clamp(0.0, 1.0));
    now + u64::try_from(part.as_nanos()).unwrap_or(LATEST)
}
