//! The activity of one connection: bytes received, calls in progress, and admission of new calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::metrics::ServerMetrics;
use crate::grpc::{self, CallError, CallMetrics, Method};

/// Health checks that a connection may have in progress when the server has reached `--max-calls`. A client makes one at a time.
const HEALTH_CALLS: usize = 8;

/// Health watches of the whole server in addition to the first of each connection. A client has one for each connection; more come
/// from proxies that multiplex calls of many clients on one connection.
pub(super) const FURTHER_HEALTH_WATCHES: usize = 1000;

/// The state of one connection that its calls share.
#[derive(Debug, Default)]
pub(super) struct Activity {
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) call_metrics: Arc<CallMetrics>,
    /// Accepts only health checks, since the connection limit was reached.
    probes_only: bool,
    /// Notified when a probe connection is used for anything but health checks.
    rejected: Notify,
    /// Calls since the connection was opened.
    started: AtomicUsize,
    in_progress: AtomicUsize,
    /// A part of `in_progress`.
    health_calls: AtomicUsize,
    health_watches: AtomicUsize,
    bytes_received: AtomicUsize,
}

/// Which counters a call has incremented. They are decremented when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallClass {
    /// That of calls.
    Call,
    /// Also that of the connection's health checks.
    HealthCall,
    /// Also that of the connection's health watches, as its first.
    HealthWatch,
    /// Also that of the connection's health watches, and that of the server's further ones.
    FurtherHealthWatch,
}

impl Activity {
    pub(super) fn new(
        metrics: Arc<ServerMetrics>,
        call_metrics: Arc<CallMetrics>,
        probes_only: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            call_metrics,
            probes_only,
            ..Self::default()
        })
    }

    /// Admits a call of `method`, or returns the error to reject it with.
    pub(super) fn start_call(&self, method: Method, limits: grpc::Limits) -> Result<CallClass, CallError> {
        if self.probes_only && method != Method::HealthCheck {
            self.rejected.notify_one();
            return Err(CallError::TooManyConnections);
        }
        let class = if method.is_health() {
            self.start_health_call(method)?
        } else {
            CallClass::Call
        };
        let at_once = limits.at_once.get();
        // An overloaded server still answers health checks.
        let limit = match class {
            CallClass::HealthCall if self.health_calls.load(Relaxed) > HEALTH_CALLS => at_once,
            CallClass::Call => at_once,
            CallClass::HealthCall | CallClass::HealthWatch | CallClass::FurtherHealthWatch => usize::MAX,
        };
        if !self.metrics.try_begin_call(limit) {
            self.release(class);
            return Err(CallError::TooManyCalls(at_once));
        }
        self.started.fetch_add(1, Relaxed);
        self.in_progress.fetch_add(1, Relaxed);
        Ok(class)
    }

    /// The first watch of a connection is always admitted. A further one needs as many left in the whole server as the connection has
    /// already, so that one connection gets at most half of them, and several greedy ones leave some for the next.
    fn start_health_call(&self, method: Method) -> Result<CallClass, CallError> {
        if method != Method::HealthWatch {
            self.health_calls.fetch_add(1, Relaxed);
            return Ok(CallClass::HealthCall);
        }
        let further = self.health_watches.load(Relaxed);
        let class = if further == 0 {
            CallClass::HealthWatch
        } else if self
            .metrics
            .try_begin_health_watch(further, FURTHER_HEALTH_WATCHES)
        {
            CallClass::FurtherHealthWatch
        } else {
            return Err(CallError::TooManyHealthWatches(FURTHER_HEALTH_WATCHES));
        };
        // No race with the load above: all calls of a connection start on one thread.
        self.health_watches.fetch_add(1, Relaxed);
        Ok(class)
    }

    pub(super) fn end_call(&self, class: CallClass) {
        self.in_progress.fetch_sub(1, Relaxed);
        self.metrics.end_call();
        self.release(class);
    }

    fn release(&self, class: CallClass) {
        match class {
            CallClass::Call => {}
            CallClass::HealthCall => {
                self.health_calls.fetch_sub(1, Relaxed);
            }
            CallClass::HealthWatch => {
                self.health_watches.fetch_sub(1, Relaxed);
            }
            CallClass::FurtherHealthWatch => {
                self.health_watches.fetch_sub(1, Relaxed);
                self.metrics.end_health_watch();
            }
        }
    }

    /// Waits until a probe connection is used for anything but health checks.
    pub(super) async fn rejected(&self) {
        self.rejected.notified().await;
    }

    pub(super) fn record_bytes(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes, Relaxed);
    }

    pub(super) fn bytes_received(&self) -> usize {
        self.bytes_received.load(Relaxed)
    }

    /// Waits until no call has started for `pause`, but at most ten times as long, since a peer can go on forever.
    pub(super) async fn no_new_calls_for(&self, pause: Duration) {
        for _ in 0..10 {
            let started = self.started.load(Relaxed);
            tokio::time::sleep(pause).await;
            if self.started.load(Relaxed) == started {
                return;
            }
        }
    }

    /// Waits until no call was in progress for `pause`, or for up to twice as long.
    ///
    /// Polls the counters, so that calls need not notify it.
    pub(super) async fn idle_for(&self, pause: Duration) {
        loop {
            let started = self.started.load(Relaxed);
            tokio::time::sleep(pause).await;
            if self.in_progress.load(Relaxed) == 0 && self.started.load(Relaxed) == started {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
