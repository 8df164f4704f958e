//! When refusals begin and end, so that an overload is logged once at each. Pure: `now` is a parameter.

use std::time::{Duration, Instant};

/// An overload ends when nothing was refused for this time: longer than the usual `retry_after` of a refusal.
pub(super) const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// The refusals since the last quiet time.
#[derive(Debug, Default)]
pub(super) struct Overload(Option<Refusals>);

#[derive(Debug)]
struct Refusals {
    count: u64,
    first: Instant,
    last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) refused: u64,
    pub(super) lasted: Duration,
}

impl Overload {
    /// Counts a refusal. Returns true if it is the first.
    pub(super) fn record_refusal(&mut self, now: Instant) -> bool {
        let begins = self.0.is_none();
        let refusals = self.0.get_or_insert(Refusals {
            count: 0,
            first: now,
            last: now,
        });
        refusals.count += 1;
        refusals.last = now;
        begins
    }

    /// Ends the overload if nothing was refused for [`QUIET_PERIOD`].
    pub(super) fn try_end(&mut self, now: Instant) -> Option<Ended> {
        let refusals = self
            .0
            .take_if(|refusals| now.saturating_duration_since(refusals.last) >= QUIET_PERIOD)?;
        Some(Ended {
            refused: refusals.count,
            lasted: refusals.last - refusals.first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_and_ends_when_nothing_was_refused_for_a_while() {
        let (mut overload, now) = (Overload::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(overload.try_end(now), None);
        assert!(overload.record_refusal(now));
        assert!(!overload.record_refusal(after(3)));
        assert_eq!(overload.try_end(after(12)), None);
        let ended = Ended {
            refused: 2,
            lasted: Duration::from_secs(3),
        };
        assert_eq!(overload.try_end(after(13)), Some(ended));
        assert_eq!(overload.try_end(after(30)), None);
        assert!(overload.record_refusal(after(31)), "another one");
    }
}
