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
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn limits(calls: usize) -> grpc::Limits {
        grpc::Limits {
            at_once: NonZeroUsize::new(calls).expect("at least one"),
            ..grpc::Limits::default()
        }
    }

    fn connection(metrics: &Arc<ServerMetrics>) -> Arc<Activity> {
        Activity::new(Arc::clone(metrics), Arc::default(), false)
    }

    /// Starts `wanted` health watches, and returns those that were admitted.
    fn watches(connection: &Activity, wanted: usize) -> Vec<CallClass> {
        let admitted = (0..wanted).map(|_| connection.start_call(Method::HealthWatch, limits(1)));
        let (admitted, rejected): (Vec<_>, Vec<_>) = admitted.partition(Result::is_ok);
        let rejection = Err(CallError::TooManyHealthWatches(FURTHER_HEALTH_WATCHES));
        assert!(rejected.iter().all(|rejected| *rejected == rejection));
        admitted.into_iter().flatten().collect()
    }

    #[test]
    fn health_watches_are_bounded_and_every_connection_gets_its_first() {
        for wanted in [1, 2, 4, 20].map(|times| FURTHER_HEALTH_WATCHES / 2 * times) {
            let metrics = Arc::new(ServerMetrics::default());
            let greedy: Vec<_> = (0..5).map(|_| connection(&metrics)).collect();
            let admitted: Vec<_> = greedy.iter().map(|one| watches(one, wanted / 5)).collect();
            let all: usize = admitted.iter().map(Vec::len).sum();
            assert!(all <= FURTHER_HEALTH_WATCHES + greedy.len(), "{all} of {wanted}");
            if wanted <= FURTHER_HEALTH_WATCHES / 2 {
                assert_eq!(all, wanted);
            } else {
                assert!(all > FURTHER_HEALTH_WATCHES / 2, "{all} of {wanted}");
            }
            // Some are left for connections that come later.
            let late = connection(&metrics);
            assert!(watches(&late, 3).len() > 1, "{wanted}");
            for (connection, admitted) in greedy.iter().zip(admitted) {
                for admitted in admitted {
                    connection.end_call(admitted);
                }
            }
            let alone = connection(&metrics);
            assert!(watches(&alone, FURTHER_HEALTH_WATCHES).len() >= FURTHER_HEALTH_WATCHES / 2 - 1);
        }
    }

    #[test]
    fn a_first_watch_is_admitted_when_all_further_ones_are_in_use() {
        let metrics = Arc::new(ServerMetrics::default());
        let all: Vec<_> = (0..2 * FURTHER_HEALTH_WATCHES)
            .map(|_| connection(&metrics))
            .collect();
        let admitted: usize = all.iter().map(|one| watches(one, 2).len()).sum();
        assert_eq!(admitted, all.len() + FURTHER_HEALTH_WATCHES);
        assert_eq!(watches(&connection(&metrics), 2), [CallClass::HealthWatch]);
    }

    #[test]
    fn an_overloaded_server_answers_a_bounded_number_of_health_checks() {
        let metrics = Arc::new(ServerMetrics::default());
        let connection = connection(&metrics);
        let call = connection.start_call(Method::GetLatestVideo, limits(1));
        let rejection = Err(CallError::TooManyCalls(1));
        assert_eq!(
            connection.start_call(Method::GetLatestVideo, limits(1)),
            rejection
        );
        let mut checks = vec![];
        for _ in 0..HEALTH_CALLS {
            checks.push(connection.start_call(Method::HealthCheck, limits(1)));
        }
        assert!(checks.iter().all(Result::is_ok), "{checks:?}");
        assert_eq!(connection.start_call(Method::HealthCheck, limits(1)), rejection);
        assert_eq!(metrics.calls(), 1 + HEALTH_CALLS);
        for admitted in checks.into_iter().chain([call]).flatten() {
            connection.end_call(admitted);
        }
        assert_eq!(metrics.calls(), 0);
        assert!(connection.start_call(Method::HealthCheck, limits(1)).is_ok());
    }

    #[test]
    fn a_probe_connection_accepts_only_health_checks() {
        let metrics = Arc::new(ServerMetrics::default());
        let connection = Activity::new(Arc::clone(&metrics), Arc::default(), true);
        assert!(connection.start_call(Method::HealthCheck, limits(1)).is_ok());
        for method in [Method::GetLatestVideo, Method::HealthWatch, Method::Reflection] {
            assert_eq!(
                connection.start_call(method, limits(9)),
                Err(CallError::TooManyConnections)
            );
        }
        assert_eq!(metrics.calls(), 1);
    }
}
