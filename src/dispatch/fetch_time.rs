//! How long a fetch takes: mean and mean deviation, smoothed like TCP's round-trip time (RFC 6298).

/// The mean before a fetch has completed, in seconds: a feed takes 50 to 300 ms.
const INITIAL_MEAN: f64 = 0.2;

/// The weight of a new measurement in the mean. Half of TCP's: where slots are the limit, promises vary with the mean.
const GAIN: f64 = 1.0 / 16.0;

/// The weight in the deviation: TCP's.
const DEVIATION_GAIN: f64 = 0.25;

/// The estimate. Durations are in seconds, times in nanoseconds.
#[derive(Debug)]
pub(super) struct FetchTime {
    mean: f64,
    deviation: f64,
    /// When a fetch last completed.
    updated: u64,
    running: u32,
    slots: u32,
    /// When the last free slot was taken.
    filled: u64,
}

impl FetchTime {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            mean: INITIAL_MEAN,
            deviation: INITIAL_MEAN / 2.0,
            updated: 0,
            running: 0,
            slots,
            filled: 0,
        }
    }

    pub(super) fn free(&self) -> u32 {
        self.slots.saturating_sub(self.running)
    }

    /// The throughput of the slots, in fetches a second.
    pub(super) fn rate(&self, now: u64) -> f64 {
        f64::from(self.slots) / self.mean(now).max(1e-6)
    }

    pub(super) fn begin(&mut self, now: u64) {
        self.running += 1;
        if self.free() == 0 {
            self.filled = now;
        }
    }

    /// Frees a slot without a measurement.
    pub(super) fn abandon(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Frees a slot and measures a fetch that began at `begun`.
    pub(super) fn complete(&mut self, begun: u64, now: u64) {
        self.abandon();
        let took = seconds(now.saturating_sub(begun));
        let error = took - self.mean;
        self.mean += GAIN * error;
        self.deviation += DEVIATION_GAIN * (error.abs() - self.deviation);
        self.updated = now;
    }

    /// The mean. While all slots are taken, at least the time since a fetch completed, or hanging fetches would go unnoticed.
    pub(super) fn mean(&self, now: u64) -> f64 {
        if self.free() > 0 {
            return self.mean;
        }
        self.mean
            .max(seconds(now.saturating_sub(self.filled.max(self.updated))))
    }

    /// The mean and twice the mean deviation. Nine in ten fetches stay below it if durations are exponential, almost all if they are
    /// uniform.
    pub(super) fn usual(&self, now: u64) -> f64 {
        self.mean(now) + 2.0 * self.deviation
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are enough")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests;
