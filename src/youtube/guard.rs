//! The breaker with what it needs: channels that were found lately, of which one is asked to find out whether we are refused.

mod good;

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};

use self::good::GoodChannels;
use super::queue::now;
use crate::{
    dispatch::breaker::{self, Breaker, Change, Pass, Report, Standing},
    metrics::family,
    upstream::{Failure, UpstreamError},
    video::ChannelId,
};

/// Stops lookups while the upstream refuses us.
#[derive(Default)]
pub(super) struct Guard {
    /// Held for one decision.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker<ChannelId>,
    good: GoodChannels,
    /// Lookups that were not made since the breaker opened.
    refused: u64,
}

/// The breaker's leave for one lookup, whose outcome it wants to hear of.
pub(super) struct Admission {
    guard: Arc<Guard>,
    channel: ChannelId,
    /// Who asked for it, as a keyed hash.
    caller: u64,
    pass: Pass,
    /// Silence, if the lookup ends without saying.
    report: Option<Report>,
}

impl State {
    fn good_known(&self, channel: ChannelId) -> bool {
        self.good.has_another(channel, &self.breaker.excluded())
    }

    fn refusal(&mut self, refused: breaker::Refused) -> Failure {
        self.refused += 1;
        Failure {
            error: UpstreamError::RateLimited(refused.status),
            retry_after: Some(refused.retry_after),
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

    /// Asks for leave to look `channel` up for `caller`. It was `found_before` or not.
    ///
    /// # Errors
    ///
    /// If the upstream refuses us, with the time left.
    pub(super) fn admit(
        self: &Arc<Self>,
        channel: ChannelId,
        found_before: bool,
        caller: u64,
    ) -> Result<Admission, Failure> {
        let mut state = self.state.lock();
        // Whoever comes at the right moment with a channel of theirs would win the probe: it is asked for what we choose, if we can.
        let good_known = state.good_known(channel);
        let standing = if found_before && !good_known {
            Standing::Good
        } else {
            Standing::Unproven { good_known }
        };
        match state.breaker.admit(channel, standing, now()) {
            Ok(pass) => Ok(self.admission(channel, caller, pass)),
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
        let (channel, caller) = state.good.choose(&state.breaker.excluded(), now)?;
        let pass = state.breaker.admit(channel, Standing::Good, now).ok()?;
        Some(self.admission(channel, caller, pass))
    }

    fn admission(self: &Arc<Self>, channel: ChannelId, caller: u64, pass: Pass) -> Admission {
        Admission {
            guard: Arc::clone(self),
            channel,
            caller,
            pass,
            report: None,
        }
    }

    fn report(&self, admission: &Admission, report: Report, now: Instant) {
        let &Admission {
            channel,
            caller,
            pass,
            ..
        } = admission;
        let mut state = self.state.lock();
        match report {
            Report::Success => state.good.remember(channel, caller),
            Report::Answered => state.good.forget(channel),
            Report::Forbidden { .. } => state.good.distrust(channel, now),
            Report::Refused { .. } | Report::Silent => {}
        }
        match state.breaker.report(channel, pass, report, now) {
            Some(Change::Opened { status, pause }) => {
                state.refused = 0;
                // Of no lookup: it is about all of them.
                tracing::warn!(
                    parent: None,
                    status,
                    pause = %humantime::format_duration(pause),
                    "the upstream refuses us: no lookups for a while"
                );
            }
            Some(Change::Closed) => {
                tracing::info!(parent: None, refused = state.refused, "the upstream answers again");
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
        self.guard.report(self, report, now());
    }
}

#[cfg(test)]
mod tests;
