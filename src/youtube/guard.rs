//! The breaker, and the proven channels that its probes ask for.

mod proven;

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};

use self::proven::ProvenChannels;
use super::queue::now;
use crate::{
    dispatch::breaker::{self, Breaker, Change, Report, Role, Standing},
    metrics::family,
    upstream::{Failure, UpstreamError},
    video::ChannelId,
};

/// Stands for the channel of requests that name none by its ID. It is never probed.
const NO_CHANNEL: &str = "UCAAAAAAAAAAAAAAAAAAAAAA";

/// Stops lookups while the upstream refuses this address.
#[derive(Default)]
pub(super) struct Guard {
    /// The upstream's host, for the log.
    host: String,
    /// Locked for one decision, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker<ChannelId>,
    proven: ProvenChannels,
    /// Lookups refused since the breaker opened.
    refused: u64,
}

/// Permission of the breaker for one lookup. Reports its outcome when it is dropped.
pub(super) struct Admission {
    guard: Arc<Guard>,
    channel: ChannelId,
    caller: u64,
    role: Role,
    /// The outcome; silence if there is none.
    report: Option<Report>,
}

impl State {
    fn proven_known(&self, channel: ChannelId) -> bool {
        self.proven.has_another(channel, &self.breaker.excluded())
    }

    fn refusal(&mut self, refused: breaker::Refused) -> Failure {
        self.refused += 1;
        Failure {
            retry_after: Some(refused.retry_after),
            ..UpstreamError::RateLimited(refused.status).into()
        }
    }
}

impl Guard {
    pub(super) fn new(host: String) -> Self {
        Self {
            host,
            ..Self::default()
        }
    }

    /// Checks whether a lookup may be queued.
    ///
    /// # Errors
    ///
    /// If the breaker is open, with the remaining time.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let checked = state.breaker.check(now());
        checked.map_err(|refused| state.refusal(refused))
    }

    /// Checks whether the breaker is open after an outcome that was reported.
    ///
    /// # Errors
    ///
    /// If `failure` is a refusal and the breaker is open: as lookups fail from now on, with the remaining time.
    pub(super) fn check_after(&self, failure: Option<&Failure>) -> Result<(), Failure> {
        match failure.map(|failure| &failure.error) {
            Some(UpstreamError::RateLimited(_) | UpstreamError::Status(403)) => self.check(),
            _ => Ok(()),
        }
    }

    /// Requests permission to look up `channel` for `caller`.
    ///
    /// # Errors
    ///
    /// If the breaker is open, with the remaining time.
    pub(super) fn admit(
        self: &Arc<Self>,
        channel: ChannelId,
        found_before: bool,
        caller: u64,
    ) -> Result<Admission, Failure> {
        let mut state = self.state.lock();
        // A caller could time its calls so as to have its own channel probed. So the guard chooses the channel, if it knows another proven
        // one.
        let proven_known = state.proven_known(channel);
        let standing = if found_before && !proven_known {
            Standing::Proven
        } else {
            Standing::Unproven { proven_known }
        };
        match state.breaker.admit(channel, standing, now()) {
            Ok(role) => Ok(self.admission(channel, caller, role)),
            Err(refused) => Err(state.refusal(refused)),
        }
    }

    /// Sends a request that names no channel by its ID, unless the breaker is open, and reports the outcome.
    pub(super) async fn request_by_name<T>(
        self: &Arc<Self>,
        caller: u64,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let admission = self.admit(NO_CHANNEL.parse().expect("an ID"), false, caller)?;
        let answered = request.await;
        admission.report(answered.as_ref().err());
        self.check_after(answered.as_ref().err())?;
        answered
    }

    /// Starts a probe if one is due and there is a proven channel for it.
    pub(super) fn begin_probe(self: &Arc<Self>) -> Option<Admission> {
        let mut state = self.state.lock();
        let now = now();
        if !state.breaker.probe_is_due(now) {
            return None;
        }
        let (channel, caller) = state.proven.choose(&state.breaker.excluded(), now)?;
        let role = state.breaker.admit(channel, Standing::Proven, now).ok()?;
        Some(self.admission(channel, caller, role))
    }

    fn admission(self: &Arc<Self>, channel: ChannelId, caller: u64, role: Role) -> Admission {
        Admission {
            guard: Arc::clone(self),
            channel,
            caller,
            role,
            report: None,
        }
    }

    fn report(&self, admission: &Admission, report: Report, now: Instant) {
        let &Admission {
            channel,
            caller,
            role,
            ..
        } = admission;
        let mut state = self.state.lock();
        match report {
            Report::Success if channel.as_str() == NO_CHANNEL => {}
            Report::Success => state.proven.remember(channel, caller),
            Report::Answered => state.proven.forget(channel),
            Report::Forbidden { .. } => state.proven.distrust(channel, now),
            Report::Refused { .. } | Report::Silent => {}
        }
        match state.breaker.report(channel, role, report, now) {
            Some(Change::Opened { status, pause }) => {
                state.refused = 0;
                // Outside of the lookup's span: it concerns all lookups.
                tracing::warn!(
                    parent: None,
                    host = self.host,
                    status,
                    pause = %humantime::format_duration(pause),
                    "the upstream refuses us: no lookups for a while"
                );
            }
            Some(Change::Closed) => {
                tracing::info!(parent: None, host = self.host, refused = state.refused, "the upstream answers again");
            }
            None => {}
        }
    }

    /// The state of the breaker: `closed`, `open` or `probing`.
    pub(super) fn state_name(&self) -> &'static str {
        self.state.lock().breaker.state_name()
    }

    pub(super) fn register(self: &Arc<Self>, registry: &mut Registry) {
        let guard = Arc::clone(self);
        family(
            registry,
            "upstream_breaker",
            "1 for the state of the breaker: closed, open (the upstream refuses this address) or probing",
            "state",
            move || {
                let current = guard.state_name();
                ["closed", "open", "probing"]
                    .map(|state| (state, ConstGauge::new(u64::from(state == current))))
            },
        );
    }
}

impl Admission {
    pub(super) fn channel(&self) -> ChannelId {
        self.channel
    }

    pub(super) fn is_probe(&self) -> bool {
        self.role == Role::Probe
    }

    /// Sets the outcome: `failure`, or success.
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
                proven_known: self.guard.state.lock().proven_known(self.channel),
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
