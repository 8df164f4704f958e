//! How many lookups a second: a token bucket, written as the time at which it would be full (GCRA).

use std::time::{Duration, Instant};

/// As many lookups as fit into this may begin at once.
const BURST: Duration = Duration::from_secs(1);

/// Pure: the time is an argument.
#[derive(Debug)]
pub(super) struct Rate {
    /// From one lookup to the next.
    interval: Duration,
    /// When all that was begun is paid for.
    full_at: Option<Instant>,
}

impl Rate {
    /// At most `each_second` a second on average; a positive number.
    pub(super) fn new(each_second: f64) -> Self {
        Self {
            // A rate so low that its interval is no duration: as good as never.
            interval: Duration::try_from_secs_f64(each_second.recip()).unwrap_or(Duration::MAX),
            full_at: None,
        }
    }

    /// When the next lookup may begin: `now`, or later.
    pub(super) fn next(&self, now: Instant) -> Instant {
        // A bucket that holds less than one lookup would let none pass.
        let burst = BURST.saturating_sub(self.interval);
        let begin = self.full_at.and_then(|full_at| full_at.checked_sub(burst));
        begin.map_or(now, |begin| begin.max(now))
    }

    /// Takes in that a lookup begins.
    pub(super) fn take(&mut self, now: Instant) {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        self.full_at = full_at.checked_add(self.interval).or(Some(full_at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks up as soon as it may, and says when that is.
    fn look_up(rate: &mut Rate, now: Instant) -> Instant {
        let begin = rate.next(now);
        rate.take(begin);
        begin
    }

    #[test]
    fn a_second_s_worth_may_begin_at_once_and_then_one_at_a_time() {
        let (mut rate, now) = (Rate::new(20.0), Instant::now());
        for _ in 0..20 {
            assert_eq!(look_up(&mut rate, now), now);
        }
        for late in 1..100 {
            assert_eq!(look_up(&mut rate, now) - now, Duration::from_millis(50) * late);
        }
        // What was not used in a quiet time is a second's worth again, and no more.
        let later = now + Duration::from_mins(10);
        for _ in 0..20 {
            assert_eq!(look_up(&mut rate, later), later);
        }
        assert!(look_up(&mut rate, later) > later);
    }

    #[test]
    fn less_than_one_a_second_is_one_at_a_time() {
        let (mut rate, now) = (Rate::new(0.1), Instant::now());
        assert_eq!(look_up(&mut rate, now), now);
        assert_eq!(look_up(&mut rate, now) - now, Duration::from_secs(10));
        assert_eq!(look_up(&mut rate, now) - now, Duration::from_secs(20));
    }
}
