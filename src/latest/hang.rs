//! Skips a source that hangs. What decides is pure: time is a parameter.
//!
//! A source hangs when lookups of [`TIMEOUTS`] feeds in a row get no answer: one slow feed is not enough. From then on its lookups fail at
//! once, so that the next source is asked, or the last success is returned, without a wait. Now and then one lookup is sent as a probe. Any
//! answer ends it, even an error.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{
    clock,
    upstream::{Failure, Feed, Upstream, UpstreamError},
    video::Source,
};

/// How many feeds in a row have to time out.
const TIMEOUTS: u32 = 3;

/// The pause before the first probe. Doubles with each probe that gets no answer.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

const MAX_PAUSE: Duration = Duration::from_mins(1);

/// The circuit breaker of one source.
#[derive(Default)]
pub(super) struct HangBreaker(Mutex<State>);

#[derive(Default)]
struct State {
    timeouts: u32,
    /// The feed of the last timeout.
    last: Option<Feed>,
    skip: Option<Skip>,
}

/// Until when lookups are skipped. The first one after that is a probe.
struct Skip {
    until: Instant,
    pause: Duration,
    /// The feed of the probe in progress, or of one that has never ended.
    probe: Option<Feed>,
}

/// Whether the source hangs from now on, or answers again.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Hangs,
    Answers,
}

impl HangBreaker {
    /// Requests permission for a lookup of `feed` that takes no longer than `limit`.
    ///
    /// # Errors
    ///
    /// If the source hangs: as the lookups that have timed out.
    pub(super) fn admit(&self, feed: Feed, limit: Duration, now: Instant) -> Result<(), Failure> {
        let mut state = self.0.lock();
        match &mut state.skip {
            None => Ok(()),
            Some(Skip { until, .. }) if now < *until => Err(Failure {
                retry_after: Some(*until - now),
                ..UpstreamError::TimedOut(limit).into()
            }),
            Some(skip) => {
                (skip.until, skip.probe) = (now + limit, Some(feed));
                Ok(())
            }
        }
    }

    /// Records the outcome of a lookup that has ended now, and logs that `upstream` hangs, or answers again.
    pub(super) fn report(
        &self,
        source: Source,
        upstream: &dyn Upstream,
        feed: Feed,
        outcome: Result<(), &UpstreamError>,
    ) {
        let (source, host) = (source.name(), || upstream.status().host);
        match self.record(feed, outcome, clock::now()) {
            None => {}
            Some(Change::Hangs) => tracing::warn!(
                source,
                host = host(),
                "a source does not answer: it is skipped, except for a lookup now and then"
            ),
            Some(Change::Answers) => tracing::info!(source, host = host(), "a source answers again"),
        }
    }

    /// Records the outcome of a lookup. Timeouts of lookups that were skipped, or sent before others were, change nothing.
    fn record(&self, feed: Feed, outcome: Result<(), &UpstreamError>, now: Instant) -> Option<Change> {
        let mut state = self.0.lock();
        match (outcome, &mut state.skip) {
            // Not sent.
            (Err(UpstreamError::Busy), _) => None,
            (Err(UpstreamError::TimedOut(_)), Some(skip)) => {
                if skip.probe.take_if(|probe| *probe == feed).is_some() {
                    skip.pause = MAX_PAUSE.min(2 * skip.pause);
                    skip.until = now + skip.pause;
                }
                None
            }
            (Err(UpstreamError::TimedOut(_)), None) => {
                state.timeouts += u32::from(state.last != Some(feed));
                state.last = Some(feed);
                (state.timeouts >= TIMEOUTS).then(|| {
                    state.skip = Some(Skip {
                        until: now + FIRST_PAUSE,
                        pause: FIRST_PAUSE,
                        probe: None,
                    });
                    Change::Hangs
                })
            }
            _ => std::mem::take(&mut *state).skip.map(|_| Change::Answers),
        }
    }

    /// Whether lookups are skipped.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().skip.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const TIMED_OUT: Result<(), &UpstreamError> = Err(&UpstreamError::TimedOut(LIMIT));

    fn feed(letter: char) -> Feed {
        let id = format!("UC0123456789abcdefghijk{letter}");
        id.parse::<crate::video::ChannelId>()
            .expect("a channel ID")
            .into()
    }

    /// One that hangs since `now`.
    fn hanging(now: Instant) -> HangBreaker {
        let breaker = HangBreaker::default();
        for letter in ['A', 'Q', 'g'] {
            assert_eq!(breaker.admit(feed(letter), LIMIT, now), Ok(()));
            let change = breaker.record(feed(letter), TIMED_OUT, now);
            assert_eq!(change, (letter == 'g').then_some(Change::Hangs), "{letter}");
        }
        breaker
    }

    #[test]
    fn lookups_are_skipped_until_a_probe_is_answered() {
        let begin = Instant::now();
        let breaker = hanging(begin);
        let mut now = begin;
        for pause in [5, 10, 20, 40, 60, 60] {
            // Sent before the others were skipped.
            assert_eq!(breaker.record(feed('w'), TIMED_OUT, now), None);
            let pause = Duration::from_secs(pause);
            let skipped = breaker
                .admit(feed('A'), LIMIT, now + pause / 2)
                .expect_err("it hangs");
            assert_eq!(skipped.error, UpstreamError::TimedOut(LIMIT));
            assert_eq!(skipped.retry_after, Some(pause / 2));
            now += pause;
            assert_eq!(breaker.admit(feed('A'), LIMIT, now), Ok(()), "after {pause:?}");
            assert!(
                breaker.admit(feed('A'), LIMIT, now).is_err(),
                "one probe at a time"
            );
            assert_eq!(breaker.record(feed('Q'), TIMED_OUT, now), None, "skipped");
            // Sooner than its limit, which includes the wait for a permit.
            now += LIMIT / 2;
            assert_eq!(breaker.record(feed('A'), TIMED_OUT, now), None);
        }
        assert!(breaker.is_open());
        let answered = breaker.record(feed('A'), Err(&UpstreamError::Status(503)), now);
        assert_eq!(answered, Some(Change::Answers));
        assert_eq!(breaker.admit(feed('A'), LIMIT, now), Ok(()));
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_probe_that_never_ends_is_followed_by_another() {
        let begin = Instant::now();
        let breaker = hanging(begin);
        let probe = begin + FIRST_PAUSE;
        assert_eq!(breaker.admit(feed('A'), LIMIT, probe), Ok(()));
        assert!(breaker.admit(feed('A'), LIMIT, probe + LIMIT / 2).is_err());
        assert_eq!(breaker.admit(feed('A'), LIMIT, probe + LIMIT), Ok(()));
    }

    #[test]
    fn one_feed_or_timeouts_among_answers_are_not_enough() {
        let (breaker, now) = (HangBreaker::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(breaker.record(feed('A'), TIMED_OUT, now), None);
        }
        for letter in ['A', 'Q', 'g', 'w'] {
            assert_eq!(breaker.record(feed(letter), TIMED_OUT, now), None);
            assert_eq!(
                breaker.record(feed('A'), Err(&UpstreamError::Busy), now),
                None,
                "not sent"
            );
            assert_eq!(
                breaker.record(feed('A'), Err(&UpstreamError::NotFound), now),
                None,
                "an answer"
            );
        }
        assert_eq!(breaker.admit(feed('A'), LIMIT, now), Ok(()));
    }
}
