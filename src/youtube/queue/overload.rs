//! When lookups begin to be refused, and when that is over: worth one line in the log each. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// An overload is over when nothing was refused for so long: longer than who is refused is usually told to wait.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// The refusals since the last quiet time.
#[derive(Debug, Default)]
pub(super) struct Overload(Option<Refusals>);

#[derive(Debug)]
struct Refusals {
    count: u64,
    first: Instant,
    last: Instant,
}

/// An overload that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// Lookups that were refused.
    pub(super) refused: u64,
    /// From the first of them to the last.
    pub(super) lasted: Duration,
}

impl Overload {
    /// Counts a refusal. `true` if it is the first.
    pub(super) fn refuse(&mut self, now: Instant) -> bool {
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

    /// Ends the overload if nothing was refused for [`QUIET`].
    pub(super) fn end(&mut self, now: Instant) -> Option<Over> {
        let refusals = self
            .0
            .take_if(|refusals| now.saturating_duration_since(refusals.last) >= QUIET)?;
        Some(Over {
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
        assert_eq!(overload.end(now), None);
        assert!(overload.refuse(now));
        assert!(!overload.refuse(after(3)));
        assert_eq!(overload.end(after(12)), None);
        let over = Over {
            refused: 2,
            lasted: Duration::from_secs(3),
        };
        assert_eq!(overload.end(after(13)), Some(over));
        assert_eq!(overload.end(after(30)), None);
        assert!(overload.refuse(after(31)), "another one");
    }
}
