//! How often callers ask for each channel now: in a window that neither lookups nor readers of the page begin anew.

use std::time::{Duration, Instant};

use crate::cache_entry::HitCount;

/// When the counts of all cached feeds were marked.
pub(super) struct Demand {
    last_but_one: Instant,
    last: Instant,
}

impl Demand {
    /// Before the first request.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_but_one: now,
            last: now,
        }
    }

    /// All counts were marked: the window of rates begins at the mark before this one.
    pub(super) fn mark(&mut self, now: Instant) {
        self.last_but_one = std::mem::replace(&mut self.last, now);
    }

    /// Requests per second since the last mark but one. After a start, of a second at least.
    pub(super) fn rate(&self, hits: &HitCount, now: Instant) -> f64 {
        let window = now.saturating_duration_since(self.last_but_one);
        f64::from(hits.since_mark()) / window.max(Duration::from_secs(1)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let (mut demand, hits) = (Demand::new(start), HitCount::default());
        let mark = |demand: &mut Demand, second| {
            hits.mark();
            demand.mark(at(second));
        };
        let ask = |times| (0..times).for_each(|_| hits.increment());
        let assert_rate = |demand: &Demand, second, expected: f64| {
            let rate = demand.rate(&hits, at(second));
            assert!((rate - expected).abs() < 1e-9, "{rate}");
        };
        ask(47);
        assert_rate(&demand, 0, 47.0);
        ask(9 * 47);
        assert_rate(&demand, 10, 47.0);
        mark(&mut demand, 10);
        ask(10 * 47);
        mark(&mut demand, 20);
        assert_rate(&demand, 20, 47.0);
        // Nobody asks any more.
        assert_rate(&demand, 29, 470.0 / 19.0);
        mark(&mut demand, 30);
        assert_rate(&demand, 30, 0.0);
    }
}
