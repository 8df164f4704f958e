//! How long a fetch takes: mean and mean deviation, smoothed as TCP smooths its round trips (RFC 6298).

/// What a fetch is taken to last before one has ended: a feed comes in 50 to 300 ms.
const ASSUMED: f64 = 0.2;

/// The weight of a new measurement in the mean. Half of TCP's: where slots are the limit, what may be promised sways with the mean.
const GAIN: f64 = 1.0 / 16.0;

/// And in the deviation: TCP's.
const DEVIATION_GAIN: f64 = 0.25;

/// An estimate that completions feed. Durations are seconds, times nanoseconds.
#[derive(Debug)]
pub(super) struct FetchTime {
    mean: f64,
    deviation: f64,
    /// When a fetch last completed.
    updated: u64,
    running: u32,
    /// Fetches that may run at once.
    slots: u32,
    /// When the last slot was taken.
    filled: u64,
}

impl FetchTime {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            mean: ASSUMED,
            deviation: ASSUMED / 2.0,
            updated: 0,
            running: 0,
            slots,
            filled: 0,
        }
    }

    /// Slots that are free.
    pub(super) fn free(&self) -> u32 {
        self.slots.saturating_sub(self.running)
    }

    /// Fetches that the slots let through in a second.
    pub(super) fn rate(&self, now: u64) -> f64 {
        f64::from(self.slots) / self.mean(now).max(1e-6)
    }

    /// Takes in that a fetch begins.
    pub(super) fn begin(&mut self, now: u64) {
        self.running += 1;
        if self.free() == 0 {
            self.filled = now;
        }
    }

    /// Takes in that a fetch is over without telling how long one takes.
    pub(super) fn forget(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Takes in that a fetch that began at `begun` has completed.
    pub(super) fn complete(&mut self, begun: u64, now: u64) {
        self.forget();
        let took = seconds(now.saturating_sub(begun));
        let error = took - self.mean;
        self.mean += GAIN * error;
        self.deviation += DEVIATION_GAIN * (error.abs() - self.deviation);
        self.updated = now;
    }

    /// The mean. While all slots are taken, at least the time since anything completed: fetches that hang say nothing else.
    pub(super) fn mean(&self, now: u64) -> f64 {
        if self.free() > 0 {
            return self.mean;
        }
        self.mean
            .max(seconds(now.saturating_sub(self.filled.max(self.updated))))
    }

    /// What a fetch usually takes at most: the mean and twice the mean deviation, which nine in ten do not exceed if they are spread
    /// exponentially, and hardly any if they are spread evenly.
    pub(super) fn usual(&self, now: u64) -> f64 {
        self.mean(now) + 2.0 * self.deviation
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are enough")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_follows_a_change_within_some_forty_fetches() {
        let mut estimate = FetchTime::new(4);
        let mut now = 0;
        for _ in 0..45 {
            estimate.begin(now);
            estimate.complete(now, now + 2 * SECOND);
            now += 2 * SECOND;
        }
        assert!((1.8..=2.01).contains(&estimate.mean(now)), "{estimate:?}");
        assert!((1.9..=2.6).contains(&estimate.usual(now)), "{estimate:?}");
    }

    #[test]
    fn fetches_that_hang_are_noticed_before_they_end() {
        let mut estimate = FetchTime::new(4);
        for _ in 0..4 {
            assert!(estimate.mean(6 * SECOND) < 0.3, "a slot is free");
            estimate.begin(SECOND);
        }
        assert!((estimate.mean(6 * SECOND) - 5.0).abs() < 1e-6);
        assert!((estimate.rate(6 * SECOND) - 0.8).abs() < 1e-6);
        estimate.forget();
        assert!(estimate.mean(6 * SECOND) < 0.3);
    }
}
