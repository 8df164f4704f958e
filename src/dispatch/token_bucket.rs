//! A token bucket that limits lookups a second. Its state is the time at which it will be full (GCRA).

/// Times and durations are in nanoseconds.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// The time between two tokens.
    interval: u64,
    /// The time that it takes to fill.
    capacity: u64,
    full_at: u64,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens (at least one), with `rate` tokens a second, a positive number.
    pub(super) fn new(rate: f64, burst: f64) -> Self {
        // Bounds the interval of very low rates: practically never.
        let nanos = |seconds: f64| (seconds * 1e9).clamp(1.0, 1e18);
        let interval = nanos(rate.recip());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and 10^18"
        )]
        Self {
            interval: interval as u64,
            capacity: (interval * burst.max(1.0)).min(4e18) as u64,
            full_at: 0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate needs no nanoseconds")]
    pub(super) fn rate(&self) -> f64 {
        1e9 / self.interval as f64
    }

    /// The current number of tokens, with a fraction.
    #[expect(clippy::cast_precision_loss, reason = "at most the burst")]
    pub(super) fn tokens(&self, now: u64) -> f64 {
        let missing = self.full_at.saturating_sub(now);
        (self.capacity as f64 - missing as f64) / self.interval as f64
    }

    /// When there is a whole token: `now` or later.
    pub(super) fn ready_at(&self, now: u64) -> u64 {
        let one = self.full_at.saturating_add(self.interval);
        one.saturating_sub(self.capacity).max(now)
    }

    /// Changes the rate and the burst. Keeps the tokens that fit.
    pub(super) fn change(&mut self, rate: f64, burst: f64, now: u64) {
        let tokens = self.tokens(now);
        *self = Self::new(rate, burst);
        let burst = self.tokens(u64::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "what is missing is no less than none, and far below 10^18"
        )]
        let missing = ((burst - tokens).max(0.0) * self.interval as f64) as u64;
        self.full_at = now.saturating_add(missing);
    }

    /// Takes a token, which may become a debt.
    pub(super) fn take(&mut self, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(self.interval);
    }

    pub(super) fn give_back(&mut self) {
        self.full_at = self.full_at.saturating_sub(self.interval);
    }
}

#[cfg(test)]
mod tests;
