//! The budget of polls: what other lookups leave of the rate.

use std::time::Instant;

use super::{Class, Dispatcher, admission::SLOTS_IN_USE, dispatcher::seconds, token_bucket::TokenBucket};

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
    fn count(&mut self, taken: u64, now: u64) {
        let passed = seconds(now.saturating_sub(self.counted_at));
        if passed <= 0.0 {
            return;
        }
        let rate = taken.saturating_sub(self.counted) as f64 / passed;
        let weight = 1.0 - (-passed / AVERAGED_OVER).exp();
        self.taken += weight * (rate - self.taken);
        (self.counted, self.counted_at) = (taken, now);
    }
}

/// What is left of `capacity` for polls, of which `queued` are waiting: at least their share. In lookups a second.
fn left(capacity: f64, taken: f64, queued: u32) -> f64 {
    let backlog = f64::from(queued) / DRAINED_WITHIN;
    (capacity - taken - backlog).max(Class::Poll.share() * capacity)
}

impl<T> Dispatcher<T> {
    /// The rate of polls for which there is room now: the rate, or the throughput of the slots, minus what other lookups and retries used
    /// lately; at least the share of polls. `None` without a rate: unlimited. To be called about once a second.
    pub fn room_for_polls(&mut self, now: Instant) -> Option<f64> {
        let now = self.nanos(now);
        let taken = Class::ALL.iter().map(|class| {
            let counters = &self.counters[*class as usize];
            let used = if *class == Class::Poll {
                0
            } else {
                counters.started.saturating_sub(counters.returned)
            };
            used + counters.retried
        });
        self.poll_budget.count(taken.sum(), now);
        let rate = self.bucket.as_ref().map(TokenBucket::rate)?;
        let capacity = rate.min(SLOTS_IN_USE * self.fetches.rate(now));
        let queued = self.queue.queued_of(Class::Poll as usize);
        Some(left(capacity, self.poll_budget.taken, queued))
    }
}

#[cfg(test)]
mod tests;
