//! Selection: which queued lookup goes out next. `admission` has decided which lookups are queued.
//!
//! Classes share the rate by start-time fair queueing; within a class, callers take turns (`fair_queue`). A lookup goes out in its fair
//! turn unless one that is due earlier would then be late.

use super::{CLASSES, Dispatcher};

/// If this part of the capacity would not be enough for the caller's earliest lookup, it takes every second turn of the caller.
const CATCH_UP_EVERY_SECOND: f64 = 0.4;

/// And with this part, it takes every turn of the caller.
const CATCH_UP_ALWAYS: f64 = 0.6;

/// A *modest* caller has at most this many lookups queued.
const MODEST_QUEUED: u32 = 2;

impl<T> Dispatcher<T> {
    /// A class that becomes active gets no credit for its idle time.
    pub(super) fn activate(&mut self, class: usize) {
        if self.queue.queued_of(class) == 0 {
            self.virtual_time[class] = self.virtual_time[class].max(self.current_virtual_time);
        }
    }

    /// The lookup to start next: the one whose fair turn it is, unless another would then be late.
    pub(super) fn select(&mut self, now: u64) -> Option<u32> {
        let busy = (0..CLASSES).filter(|class| self.queue.queued_of(*class) > 0);
        let class = busy.min_by(|a, b| self.virtual_time[*a].total_cmp(&self.virtual_time[*b]))?;
        let index = self.queue.front(class)?;
        let (entry, earliest) = (self.queue.entry(index)?, self.calendar.earliest()?);
        let capacity = self.capacity(now);
        if !self.calendar.can_wait(entry.due, now, &capacity) {
            // A promise to a caller with many lookups, made when the rate had fewer takers, must not delay callers who have hardly any. So
            // every second lookup may be a modest caller's.
            let modest = (!self.passed_over && !self.is_modest(earliest)).then(|| {
                let fronts = (0..CLASSES).filter_map(|class| self.queue.front(class));
                fronts.into_iter().find(|front| self.is_modest(*front))
            });
            let modest = modest.flatten();
            self.passed_over = modest.is_some();
            return Some(modest.unwrap_or(earliest));
        }
        // Newer connections of a caller can overtake what was promised to an older one. The caller's own turns make up for that in time,
        // before the promise becomes urgent and takes other callers' turns.
        let first = self.queue.entry(earliest)?;
        let of_caller = (first.class, first.caller) == (class, entry.caller);
        let is_enough = |part| {
            self.calendar
                .can_wait(entry.due, now, |within| part * capacity(within))
        };
        let alternate = self.queue.is_second_turn(class) && !is_enough(CATCH_UP_EVERY_SECOND);
        if of_caller && (alternate || !is_enough(CATCH_UP_ALWAYS)) {
            return Some(earliest);
        }
        Some(index)
    }

    /// Whether the lookup's caller has few lookups queued.
    fn is_modest(&self, index: u32) -> bool {
        let entry = self.queue.entry(index);
        entry.is_some_and(|entry| self.queue.queued_by(entry.class, entry.caller) <= MODEST_QUEUED)
    }
}
