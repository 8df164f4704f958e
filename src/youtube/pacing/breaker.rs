//! The breaker: an upstream that refuses us is left alone for a while.

use std::time::{Duration, Instant};

/// The first pause: YouTube says nothing of how long it wants to be left alone.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest: busy addresses are refused for hours, but the end of that should be noticed.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// For who comes while the probe is under way: most are over by then.
const PROBE_TAKES: Duration = Duration::from_secs(1);

/// Refuses lookups while the upstream refuses us. Pure: the time is an argument.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// The refusals since an answer last came, probes' included: pauses double with each.
    refusals: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// All is well.
    #[default]
    Closed,
    /// No lookup until then; and from then on one, to see.
    Open { until: Instant, status: u16 },
    /// That one is under way.
    Probing { status: u16 },
}

/// How a lookup may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Ordinary,
    /// All others wait for what becomes of it: it has to be [reported](Breaker::report).
    Probe,
}

/// A lookup that may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What the upstream answered when it refused us.
    pub(super) status: u16,
    pub(super) retry_after: Duration,
}

/// What became of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The upstream answered, well or badly.
    Answered,
    /// It answered that it has had enough of us.
    Refused {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// It did not answer.
    Silent,
}

impl Breaker {
    /// Asks for leave to look up. If it is [`Pass::Probe`], the caller is the one whose lookup decides.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Pass, Refused> {
        self.check(now)?;
        if let State::Open { status, .. } = self.state {
            self.state = State::Probing { status };
            return Ok(Pass::Probe);
        }
        Ok(Pass::Ordinary)
    }

    /// Whether [`Self::admit`] would let a lookup pass now.
    pub(super) fn check(&self, now: Instant) -> Result<(), Refused> {
        match self.state {
            State::Open { until, status } if now < until => Err(Refused {
                status,
                retry_after: until - now,
            }),
            State::Probing { status } => Err(Refused {
                status,
                retry_after: PROBE_TAKES,
            }),
            State::Closed | State::Open { .. } => Ok(()),
        }
    }

    /// As metrics call it.
    pub(super) fn state_name(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::Probing { .. } => "probing",
        }
    }

    /// Takes in what became of a lookup.
    pub(super) fn report(&mut self, pass: Pass, report: Report, now: Instant) {
        match (pass, report) {
            (_, Report::Refused { status, retry_after }) => {
                // Of many that were under way and are refused at once, one counts.
                if pass == Pass::Probe || self.state == State::Closed {
                    self.refusals = self.refusals.saturating_add(1);
                }
                self.open(status, retry_after.unwrap_or_default(), now);
            }
            (Pass::Probe, Report::Answered) => {
                *self = Self::default();
                tracing::info!("the upstream answers again");
            }
            (Pass::Probe, Report::Silent) => {
                if let State::Probing { status } = self.state {
                    self.open(status, Duration::ZERO, now);
                }
            }
            // From before, or as ever.
            (Pass::Ordinary, Report::Answered | Report::Silent) => {}
        }
    }

    fn open(&mut self, status: u16, at_least: Duration, now: Instant) {
        let doublings = self.refusals.saturating_sub(1).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).max(at_least);
        let pause = pause.min(LONGEST_PAUSE);
        let was_open_until = match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed | State::Probing { .. } => {
                tracing::warn!(
                    status,
                    pause = %humantime::format_duration(pause),
                    "the upstream refuses us: no lookups for a while"
                );
                None
            }
        };
        let until = was_open_until.unwrap_or(now + pause);
        // It may ask for longer than we had in mind, but not for less.
        let until = until.max(now + at_least.min(LONGEST_PAUSE));
        self.state = State::Open { until, status };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Report = Report::Refused {
        status: 429,
        retry_after: None,
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// For how long it refuses, from `now` on.
    fn refuses(breaker: &mut Breaker, now: Instant) -> Option<Duration> {
        breaker.check(now).err().map(|refused| refused.retry_after)
    }

    #[test]
    fn it_refuses_for_30_seconds_doubling_to_an_hour_with_one_probe_after_each() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        let mut pass = breaker.admit(now).expect("closed");
        assert_eq!(pass, Pass::Ordinary);
        for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            breaker.report(pass, REFUSED, now);
            assert_eq!(refuses(&mut breaker, now), Some(seconds(pause)));
            now += seconds(pause);
            pass = breaker.admit(now).expect("the pause is over");
            assert_eq!(pass, Pass::Probe);
            let other = breaker.admit(now).expect_err("one at a time");
            assert_eq!((other.status, other.retry_after), (429, PROBE_TAKES));
        }
        breaker.report(pass, Report::Answered, now);
        assert_eq!(breaker.admit(now), Ok(Pass::Ordinary));
        // The next spell begins from the beginning.
        breaker.report(Pass::Ordinary, REFUSED, now);
        assert_eq!(refuses(&mut breaker, now), Some(seconds(30)));
    }

    #[test]
    fn lookups_that_were_under_way_when_it_opened_change_nothing() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for late in 0..10 {
            breaker.report(Pass::Ordinary, REFUSED, now + seconds(late));
        }
        breaker.report(Pass::Ordinary, Report::Answered, now + seconds(10));
        breaker.report(Pass::Ordinary, Report::Silent, now + seconds(10));
        assert_eq!(refuses(&mut breaker, now + seconds(10)), Some(seconds(20)));
        // Nor the next pause.
        let now = now + seconds(30);
        let probe = breaker.admit(now).expect("the pause is over");
        breaker.report(probe, REFUSED, now);
        assert_eq!(refuses(&mut breaker, now), Some(seconds(60)));
    }

    #[test]
    fn a_probe_without_an_answer_opens_it_again_for_as_long() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.report(Pass::Ordinary, REFUSED, now);
        let now = now + seconds(30);
        let probe = breaker.admit(now).expect("the pause is over");
        breaker.report(probe, Report::Silent, now);
        assert_eq!(refuses(&mut breaker, now), Some(seconds(30)));
    }

    #[test]
    fn retry_after_is_honoured_up_to_an_hour_and_never_shortens() {
        for (asked, pause) in [(1, 30), (90, 90), (3600, 3600), (1_000_000, 3600)] {
            let (mut breaker, now) = (Breaker::default(), Instant::now());
            let refused = Report::Refused {
                status: 403,
                retry_after: Some(seconds(asked)),
            };
            breaker.report(Pass::Ordinary, refused, now);
            assert_eq!(refuses(&mut breaker, now), Some(seconds(pause)), "{asked}");
        }
        // Of several, the longest.
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for asked in [40, 100, 50] {
            let refused = Report::Refused {
                status: 429,
                retry_after: Some(seconds(asked)),
            };
            breaker.report(Pass::Ordinary, refused, now);
        }
        assert_eq!(refuses(&mut breaker, now), Some(seconds(100)));
    }
}
