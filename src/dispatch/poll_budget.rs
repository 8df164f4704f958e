//! The budget of polls: what other lookups leave of the rate.

use super::{Class, nanos::seconds};

/// Other lookups are averaged over about this many seconds. With less, a batch of a hundred would look like a new load; with more, the plan
/// would react too slowly.
const AVERAGED_OVER: f64 = 10.0;

/// Queued polls should be gone within this many seconds: the default of the longest wait.
const DRAINED_WITHIN: f64 = 5.0;

/// The average rate of lookups other than polls.
#[derive(Debug, Default)]
pub(super) struct PollBudget {
    taken: f64,
    /// The total when it was last read.
    counted: u64,
    counted_at: u64,
}

impl PollBudget {
    /// Updates the average with the total of other lookups at `now`, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "an average")]
    pub(super) fn count(&mut self, taken: u64, now: u64) {
        let passed = seconds(now.saturating_sub(self.counted_at));
        if passed <= 0.0 {
            return;
        }
        let rate = taken.saturating_sub(self.counted) as f64 / passed;
        let weight = 1.0 - (-passed / AVERAGED_OVER).exp();
        self.taken += weight * (rate - self.taken);
        (self.counted, self.counted_at) = (taken, now);
    }

    /// What is left of `capacity` for polls, of which `queued` are waiting: at least their share. In lookups a second.
    pub(super) fn left(&self, capacity: f64, queued: u32) -> f64 {
        let backlog = f64::from(queued) / DRAINED_WITHIN;
        (capacity - self.taken - backlog).max(Class::Poll.share() * capacity)
    }
}

#[cfg(test)]
mod tests;
