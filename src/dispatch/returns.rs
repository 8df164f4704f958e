//! When refused callers were told to come again: a virtual queue behind the real one.
//!
//! Under steady overload every place that becomes free is taken at once by whoever happens to come then, so that "come again in
//! T" would be worth nothing. Each refused caller therefore gets a time of its own, spaced by the rate, and for who comes at its
//! time a place is held free for a moment. A caller has one reservation at a time, however often it is refused: a flood of one
//! caller's does not push others' times back.

use std::collections::{HashMap, VecDeque};

const SECOND: u64 = 1_000_000_000;

/// Nobody is told to come later than that: no forecast is that good, and the book stays small.
const LATEST: u64 = 60 * SECOND;

/// A place is held so much ahead of its caller's time: clocks and networks are not exact.
const EARLY: u64 = SECOND / 4;

/// And for so long after it.
const LATE: u64 = SECOND;

/// Reservations a class: what fits into a minute at 60 lookups a second, 200 KiB.
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

    /// Whether a place is held for `caller`. After [`Self::held`].
    pub(super) fn has_place(&self, caller: u64) -> bool {
        self.numbers.get(&caller).is_some_and(|number| *number < self.next)
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

    /// When `caller` should come again: in `wait` at the earliest, and `interval` after whoever was told last. The second value
    /// says whether a place will be held for it.
    pub(super) fn reserve(&mut self, caller: u64, wait: u64, interval: u64, now: u64) -> (u64, bool) {
        if let Some(number) = self.numbers.get(&caller) {
            let at = self.get(*number).map_or(now, |reservation| reservation.at);
            return (at.max(now + wait), false);
        }
        let last = self.reservations.back().map_or(0, |last| last.at);
        let at = (now + wait).max(last.saturating_add(interval));
        if at > now + LATEST || self.reservations.len() >= MOST {
            return (now + LATEST, false);
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

    fn get(&self, number: u64) -> Option<Reservation> {
        #[expect(clippy::cast_possible_truncation, reason = "at most MOST")]
        let index = number.checked_sub(self.first)? as usize;
        self.reservations.get(index).copied()
    }
}
