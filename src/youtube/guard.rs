//! The breaker with what it needs: channels that were found lately, of which one is asked to find out whether we are refused.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};

use super::queue::now;
use crate::{
    dispatch::breaker::{self, Breaker, Change, Pass, Report, Standing},
    metrics::family,
    upstream::{Failure, UpstreamError},
    video::ChannelId,
};

/// Channels to choose probes from: more than can be excluded at a time (three), and too many for one caller to own them all for long.
const GOOD_CHANNELS: usize = 64;

/// Stops lookups while the upstream refuses us.
#[derive(Default)]
pub(super) struct Guard {
    /// Held for one decision.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker<ChannelId>,
    /// A random choice of those that were found lately.
    good: Vec<ChannelId>,
    /// Lookups that were not made since the breaker opened.
    refused: u64,
}

/// The breaker's leave for one lookup, whose outcome it wants to hear of.
pub(super) struct Admission {
    guard: Arc<Guard>,
    channel: ChannelId,
    pass: Pass,
    /// Silence, if the lookup ends without saying.
    report: Option<Report>,
}

impl State {
    fn good_known(&self, channel: ChannelId) -> bool {
        let excluded = self.breaker.excluded();
        self.good
            .iter()
            .any(|good| *good != channel && !excluded.contains(&Some(*good)))
    }

    fn refusal(&mut self, refused: breaker::Refused) -> Failure {
        self.refused += 1;
        Failure {
            error: UpstreamError::RateLimited(refused.status),
            retry_after: Some(refused.retry_after),
        }
    }

    fn remember(&mut self, channel: ChannelId, found: bool) {
        let known = self.good.iter().position(|good| *good == channel);
        match (known, found) {
            (None, true) if self.good.len() < GOOD_CHANNELS => self.good.push(channel),
            (None, true) => self.good[fastrand::usize(..GOOD_CHANNELS)] = channel,
            (Some(index), false) => {
                self.good.swap_remove(index);
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

impl Guard {
    /// Whether a lookup may get into the queue.
    ///
    /// # Errors
    ///
    /// If the upstream refuses us, with the time left.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let checked = state.breaker.check(now());
        checked.map_err(|refused| state.refusal(refused))
    }

    /// Asks for leave to look `channel` up, which was `found_before` or not.
    ///
    /// # Errors
    ///
    /// If the upstream refuses us, with the time left.
    pub(super) fn admit(
        self: &Arc<Self>,
        channel: ChannelId,
        found_before: bool,
    ) -> Result<Admission, Failure> {
        let mut state = self.state.lock();
        let standing = if found_before {
            Standing::Good
        } else {
            Standing::Unproven {
                good_known: state.good_known(channel),
            }
        };
        match state.breaker.admit(channel, standing, now()) {
            Ok(pass) => Ok(self.admission(channel, pass)),
            Err(refused) => Err(state.refusal(refused)),
        }
    }

    /// Begins the probe that is due, if one is and a good channel is known.
    pub(super) fn begin_probe(self: &Arc<Self>) -> Option<Admission> {
        let mut state = self.state.lock();
        let now = now();
        if !state.breaker.probe_is_due(now) {
            return None;
        }
        let excluded = state.breaker.excluded();
        let fit = state.good.iter().copied();
        let fit: Vec<_> = fit.filter(|good| !excluded.contains(&Some(*good))).collect();
        let channel = fastrand::choice(fit)?;
        let pass = state.breaker.admit(channel, Standing::Good, now).ok()?;
        Some(self.admission(channel, pass))
    }

    fn admission(self: &Arc<Self>, channel: ChannelId, pass: Pass) -> Admission {
        Admission {
            guard: Arc::clone(self),
            channel,
            pass,
            report: None,
        }
    }

    fn report(&self, channel: ChannelId, pass: Pass, report: Report, now: Instant) {
        let mut state = self.state.lock();
        match report {
            Report::Success => state.remember(channel, true),
            Report::Answered => state.remember(channel, false),
            Report::Forbidden { .. } | Report::Refused { .. } | Report::Silent => {}
        }
        match state.breaker.report(channel, pass, report, now) {
            Some(Change::Opened { status, pause }) => {
                state.refused = 0;
                tracing::warn!(
                    status,
                    pause = %humantime::format_duration(pause),
                    "the upstream refuses us: no lookups for a while"
                );
            }
            Some(Change::Closed) => {
                tracing::info!(refused = state.refused, "the upstream answers again");
            }
            None => {}
        }
    }

    /// Makes the state known to whoever reads `registry`.
    pub(super) fn register(self: &Arc<Self>, registry: &mut Registry) {
        let guard = Arc::clone(self);
        family(
            registry,
            "upstream_breaker",
            "Whether the upstream is asked: 1 for closed if it is, for open if it refuses us, for probing while one lookup tries",
            "state",
            move || {
                let current = guard.state.lock().breaker.state_name();
                ["closed", "open", "probing"]
                    .map(|state| (state, ConstGauge::new(u64::from(state == current))))
            },
        );
    }
}

impl Admission {
    /// The channel that is looked up.
    pub(super) fn channel(&self) -> ChannelId {
        self.channel
    }

    /// Whether what becomes of it decides.
    pub(super) fn is_probe(&self) -> bool {
        self.pass == Pass::Probe
    }

    /// Reports what became of the lookup: `failure`, or success.
    pub(super) fn report(mut self, failure: Option<&Failure>) {
        let retry_after = failure.and_then(|failure| failure.retry_after);
        self.report = Some(match failure.map(|failure| &failure.error) {
            None => Report::Success,
            Some(UpstreamError::RateLimited(status)) => Report::Refused {
                status: *status,
                retry_after,
            },
            Some(UpstreamError::Status(403)) => Report::Forbidden {
                retry_after,
                good_known: self.guard.state.lock().good_known(self.channel),
            },
            Some(UpstreamError::Unreachable(_) | UpstreamError::TimedOut(_)) => Report::Silent,
            Some(_) => Report::Answered,
        });
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let report = self.report.unwrap_or(Report::Silent);
        self.guard.report(self.channel, self.pass, report, now());
    }
}

#[cfg(test)]
mod tests;
