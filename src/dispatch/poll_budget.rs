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
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn is_near(left: f64, expected: f64) -> bool {
        (left - expected).abs() < 0.02 * expected
    }

    #[test]
    fn what_callers_take_is_averaged_over_seconds() {
        let mut room = PollBudget::default();
        for second in 1..=60 {
            room.count(6 * second, second * SECOND);
        }
        assert!(is_near(room.taken, 6.0), "{}", room.taken);
        // A late call misses nothing; a batch is averaged over a quarter of a minute.
        room.count(6 * 120, 120 * SECOND);
        assert!(is_near(room.taken, 6.0), "{}", room.taken);
        room.count(6 * 121 + 100, 121 * SECOND);
        assert!((10.0..20.0).contains(&room.taken), "{}", room.taken);
        for second in 122..=180 {
            room.count(6 * 121 + 100, second * SECOND);
        }
        assert!(room.taken < 0.1, "{}", room.taken);
    }

    #[test]
    fn polls_get_what_is_left_less_what_waits_and_never_less_than_their_share() {
        for (taken, queued, expected) in [
            (0.0, 0, 20.0),
            (6.0, 0, 14.0),
            (6.0, 20, 10.0),
            (19.0, 0, 5.0),
            (0.0, 1000, 5.0),
        ] {
            let budget = PollBudget {
                taken,
                ..PollBudget::default()
            };
            let left = budget.left(20.0, queued);
            assert!(
                is_near(left, expected),
                "{left} of 20 with {taken} taken, {queued} queued"
            );
        }
    }
}
