//! Since when the lookups of a source fail, and why the last one did. Pure: time is a parameter.

use std::time::SystemTime;

use parking_lot::Mutex;

use crate::{
    upstream::{SourceHealth, SourceStatus, Upstream, UpstreamError},
    video::Source,
};

/// The failures of a source since its last answer: when the first was, and the last one's error.
#[derive(Default)]
pub(super) struct SourceFailures {
    /// Locked at the end of a lookup, and by who shows it; never by hits.
    failing: Mutex<Option<Failing>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Failing {
    since: SystemTime,
    last: SystemTime,
    error: UpstreamError,
}

impl SourceFailures {
    /// Records the outcome of a lookup. What says nothing of the source changes nothing: a limit of this server, a 404 for a channel that may
    /// not exist any more, a snapshot that is not believed.
    pub(super) fn record(&self, outcome: Result<(), &UpstreamError>, now: SystemTime) {
        let mut failing = self.failing.lock();
        match outcome {
            Ok(()) | Err(UpstreamError::NoSuchChannel) => *failing = None,
            Err(
                UpstreamError::Busy
                | UpstreamError::NotFound
                | UpstreamError::Status(404)
                | UpstreamError::SuspectSnapshot,
            ) => {}
            Err(error) => {
                let since = failing.as_ref().map_or(now, |failing| failing.since);
                *failing = Some(Failing {
                    since,
                    last: now,
                    error: error.clone(),
                });
            }
        }
    }

    /// Whether the last lookup failed, however long ago that was.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.lock().is_some()
    }

    /// The health of `upstream`, whose lookups were recorded here.
    pub(super) fn health(&self, source: Source, upstream: &dyn Upstream) -> SourceHealth {
        let SourceStatus {
            host, units, refusal, ..
        } = upstream.status();
        let failing = self.failing.lock().clone();
        SourceHealth {
            source,
            host,
            failing_since: failing.as_ref().map(|failing| failing.since),
            last_failed: failing.as_ref().map(|failing| failing.last),
            error: failing.map(|failing| refusal.unwrap_or_else(|| failing.error.to_string())),
            units_left: units.map(|(left, _)| left),
            units_a_day: units.map(|(_, of)| of),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_fails_from_its_first_failure_to_its_next_answer() {
        let health = SourceFailures::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let failing = || health.failing.lock().clone();
        let refused = UpstreamError::RateLimited(429);
        for neutral in [
            UpstreamError::Busy,
            UpstreamError::NotFound,
            UpstreamError::Status(404),
            UpstreamError::SuspectSnapshot,
        ] {
            health.record(Err(&neutral), at(1));
            assert_eq!(failing(), None, "{neutral}");
            health.record(Err(&UpstreamError::Status(503)), at(2));
            health.record(Err(&refused), at(3));
            health.record(Err(&neutral), at(4));
            let expected = Failing {
                since: at(2),
                last: at(3),
                error: refused.clone(),
            };
            assert_eq!(failing(), Some(expected), "{neutral}");
            health.record(Ok(()), at(5));
            assert_eq!(failing(), None);
        }
        health.record(Err(&UpstreamError::Outage), at(6));
        health.record(Err(&UpstreamError::NoSuchChannel), at(7));
        assert_eq!(failing(), None, "it knows for certain");
    }
}
