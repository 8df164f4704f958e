//! What the server did in the last hour, for the charts of the status page: they are complete when the page is opened. Pure: time is a
//! parameter.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::grpc::CallTotals;

/// The time between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// An hour of samples.
const SAMPLES: usize = 360;

/// The totals at the start and every [`PERIOD`] since. A full hour takes 30 KiB.
pub(super) struct History(VecDeque<(Instant, CallTotals)>);

/// What was counted between two samples.
#[derive(Debug, PartialEq)]
pub(super) struct Span {
    /// How long ago it began.
    pub(super) begun: Duration,
    /// How long ago it ended.
    pub(super) ended: Duration,
    pub(super) counts: CallTotals,
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self(VecDeque::from([(now, CallTotals::default())]))
    }

    pub(super) fn add(&mut self, now: Instant, totals: CallTotals) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((now, totals));
    }

    /// The spans between samples, the oldest first, and the one that is not over, by the totals of `now`.
    pub(super) fn spans(&self, now: Instant, totals: CallTotals) -> Vec<Span> {
        let ends = self.0.iter().copied().skip(1).chain([(now, totals)]);
        let spans = self.0.iter().zip(ends).map(|((from, before), (to, after))| Span {
            begun: now.saturating_duration_since(*from),
            ended: now.saturating_duration_since(to),
            counts: after.since(before),
        });
        spans.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(calls: u64) -> CallTotals {
        CallTotals {
            calls,
            errors: calls / 2,
            lookups: [calls, 0, 0, 0, 1],
        }
    }

    #[test]
    fn an_hour_is_kept_and_the_present_is_part_of_it() {
        let start = Instant::now();
        let mut history = History::new(start);
        let first = history.spans(start + PERIOD / 2, totals(7));
        let counts = totals(7);
        assert_eq!(
            first,
            [Span {
                begun: PERIOD / 2,
                ended: Duration::ZERO,
                counts
            }]
        );
        for n in 1..=1000 {
            history.add(start + n * PERIOD, totals(u64::from(n) * 10));
        }
        let spans = history.spans(start + 1000 * PERIOD + PERIOD / 2, totals(10_003));
        assert_eq!(spans.len(), SAMPLES);
        assert_eq!(spans[0].begun, Duration::from_secs(3595));
        assert_eq!(spans[0].ended, Duration::from_secs(3585));
        assert_eq!(
            spans[0].counts,
            CallTotals {
                calls: 10,
                errors: 5,
                lookups: [10, 0, 0, 0, 0]
            }
        );
        let last = &spans[SAMPLES - 1];
        assert_eq!((last.begun, last.counts.calls), (PERIOD / 2, 3));
    }
}
