//! Selection: which queued lookup goes out next. Whether one is queued at all is decided in `admission`.
//!
//! Classes share the rate by start-time fair queueing; within a class, callers take turns (`line`). A lookup goes out in its fair
//! turn unless one that is due earlier would then be late.

use super::{CLASSES, Dispatcher};

/// Every second turn of a caller makes up for what its connections have passed, if less than this part of the line's turns would not do.
const HURRIED: f64 = 0.4;

/// And every turn, likewise.
const PRESSED: f64 = 0.6;

/// Who has no more lookups in line than this asks for little.
const MODEST: u32 = 2;

impl<T> Dispatcher<T> {
    /// A class that had nothing in line has not saved up turns meanwhile.
    pub(super) fn wake(&mut self, class: usize) {
        if self.line.queued_of(class) == 0 {
            self.virtual_time[class] = self.virtual_time[class].max(self.current);
        }
    }

    /// The lookup that goes out next: the one whose turn it is, unless another would be late then.
    pub(super) fn select(&mut self, now: u64) -> Option<u32> {
        let busy = (0..CLASSES).filter(|class| self.line.queued_of(*class) > 0);
        let class = busy.min_by(|a, b| self.virtual_time[*a].total_cmp(&self.virtual_time[*b]))?;
        let index = self.line.front(class)?;
        let (entry, earliest) = (self.line.entry(index)?, self.calendar.earliest()?);
        let capacity = self.capacity(now);
        if !self.calendar.can_wait(entry.due, now, &capacity) {
            // What was promised to somebody who has much in line, when the rate had fewer takers, does not hold up those who have
            // hardly anything in it: every second lookup may be theirs.
            let modest = (!self.passed && !self.is_modest(earliest)).then(|| {
                let fronts = (0..CLASSES).filter_map(|class| self.line.front(class));
                fronts.into_iter().find(|front| self.is_modest(*front))
            });
            let modest = modest.flatten();
            self.passed = modest.is_some();
            return Some(modest.unwrap_or(earliest));
        }
        // Connections that a caller has opened since pass what was promised to another of its. That is made up for by its own turns
        // in time, before it becomes urgent and takes other callers'.
        let first = self.line.entry(earliest)?;
        let of_caller = (first.class, first.caller) == (class, entry.caller);
        let would_do = |part| {
            self.calendar
                .can_wait(entry.due, now, |within| part * capacity(within))
        };
        let hurried = self.line.is_second_turn(class) && !would_do(HURRIED);
        if of_caller && (hurried || !would_do(PRESSED)) {
            return Some(earliest);
        }
        Some(index)
    }

    /// Whether the lookup is of a caller who has little in line.
    fn is_modest(&self, index: u32) -> bool {
        let entry = self.line.entry(index);
        entry.is_some_and(|entry| self.line.queued_by(entry.class, entry.caller) <= MODEST)
    }
}
