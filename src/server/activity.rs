//! What happens on one connection, and which calls it may make.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::load::Load;
use crate::grpc::{self, CallError, CallMetrics, Method};

/// Calls about health that a connection may have in progress when the server has `--max-calls` already. A client has one at a time.
const HEALTH_CALLS: usize = 8;

/// Watches of health beside the first of each connection, in the whole server. A client has one for each connection; more come from
/// proxies that take many clients' calls over one connection.
pub(super) const FURTHER_HEALTH_WATCHES: usize = 1000;

/// What has happened on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) load: Arc<Load>,
    pub(super) tally: Arc<CallMetrics>,
    /// There were as many connections as may be: this one is for a probe, and for nothing else.
    for_probes: bool,
    /// Told when a connection for probes was taken for something else.
    refused: Notify,
    begun: AtomicUsize,
    in_progress: AtomicUsize,
    /// Of those in progress.
    health_calls: AtomicUsize,
    health_watches: AtomicUsize,
    bytes_heard: AtomicUsize,
}

/// What a call has taken, and gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The place of a call.
    Call,
    /// That, and one of the connection's calls about health.
    HealthCall,
    /// That, and the connection's first watch of health.
    HealthWatch,
    /// That, and one of the server's further watches of health.
    FurtherHealthWatch,
}

impl Activity {
    pub(super) fn new(load: Arc<Load>, tally: Arc<CallMetrics>, for_probes: bool) -> Arc<Self> {
        Arc::new(Self {
            load,
            tally,
            for_probes,
            refused: Notify::new(),
            begun: AtomicUsize::new(0),
            in_progress: AtomicUsize::new(0),
            health_calls: AtomicUsize::new(0),
            health_watches: AtomicUsize::new(0),
            bytes_heard: AtomicUsize::new(0),
        })
    }

    /// Begins a call of `method`, if there may be one more.
    pub(super) fn begin(&self, method: Method, limits: grpc::Limits) -> Result<Taken, CallError> {
        if self.for_probes && method != Method::HealthCheck {
            self.refused.notify_one();
            return Err(CallError::TooManyConnections);
        }
        let taken = if method.is_health() {
            self.begin_health(method)?
        } else {
            Taken::Call
        };
        let at_once = limits.at_once.get();
        // A server that has too many calls still says how it is.
        let limit = match taken {
            Taken::HealthCall if self.health_calls.load(Relaxed) > HEALTH_CALLS => at_once,
            Taken::Call => at_once,
            Taken::HealthCall | Taken::HealthWatch | Taken::FurtherHealthWatch => usize::MAX,
        };
        if !self.load.begin_call(limit) {
            self.give_back(taken);
            return Err(CallError::TooManyCalls(at_once));
        }
        self.begun.fetch_add(1, Relaxed);
        self.in_progress.fetch_add(1, Relaxed);
        Ok(taken)
    }

    /// A connection's first watch is always possible. Further ones are as many as the whole server still has: so one connection has half
    /// of them at most, and many that want all leave some for the next.
    fn begin_health(&self, method: Method) -> Result<Taken, CallError> {
        if method != Method::HealthWatch {
            self.health_calls.fetch_add(1, Relaxed);
            return Ok(Taken::HealthCall);
        }
        let further = self.health_watches.load(Relaxed);
        let taken = if further == 0 {
            Taken::HealthWatch
        } else if self.load.begin_health_watch(further, FURTHER_HEALTH_WATCHES) {
            Taken::FurtherHealthWatch
        } else {
            return Err(CallError::TooManyHealthWatches(FURTHER_HEALTH_WATCHES));
        };
        // All calls of a connection are begun on one thread.
        self.health_watches.fetch_add(1, Relaxed);
        Ok(taken)
    }

    /// Ends a call.
    pub(super) fn end(&self, taken: Taken) {
        self.in_progress.fetch_sub(1, Relaxed);
        self.load.end_call();
        self.give_back(taken);
    }

    fn give_back(&self, taken: Taken) {
        match taken {
            Taken::Call => {}
            Taken::HealthCall => {
                self.health_calls.fetch_sub(1, Relaxed);
            }
            Taken::HealthWatch => {
                self.health_watches.fetch_sub(1, Relaxed);
            }
            Taken::FurtherHealthWatch => {
                self.health_watches.fetch_sub(1, Relaxed);
                self.load.end_health_watch();
            }
        }
    }

    /// Waits until a connection for probes was taken for something else.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Notes that the peer has sent so many bytes.
    pub(super) fn heard(&self, bytes: usize) {
        self.bytes_heard.fetch_add(bytes, Relaxed);
    }

    /// What the peer has sent so far.
    pub(super) fn bytes_heard(&self) -> usize {
        self.bytes_heard.load(Relaxed)
    }

    /// Waits until no call has begun for `pause`, or ten times as long: a peer may go on for as long as it likes.
    pub(super) async fn none_begins_for(&self, pause: Duration) {
        for _ in 0..10 {
            let begun = self.begun.load(Relaxed);
            tokio::time::sleep(pause).await;
            if self.begun.load(Relaxed) == begun {
                return;
            }
        }
    }

    /// Waits until no call was in progress for `pause`, or for up to twice as long.
    ///
    /// Looks now and then, so that calls, of which there are many, need not tell.
    pub(super) async fn quiet_for(&self, pause: Duration) {
        loop {
            let begun = self.begun.load(Relaxed);
            tokio::time::sleep(pause).await;
            if self.in_progress.load(Relaxed) == 0 && self.begun.load(Relaxed) == begun {
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

    fn connection(load: &Arc<Load>) -> Arc<Activity> {
        Activity::new(Arc::clone(load), Arc::default(), false)
    }

    /// How many health watches the connection gets of `wanted`.
    fn watches(connection: &Activity, wanted: usize) -> Vec<Taken> {
        let taken = (0..wanted).map(|_| connection.begin(Method::HealthWatch, limits(1)));
        let (taken, refused): (Vec<_>, Vec<_>) = taken.partition(Result::is_ok);
        let refusal = Err(CallError::TooManyHealthWatches(FURTHER_HEALTH_WATCHES));
        assert!(refused.iter().all(|refused| *refused == refusal));
        taken.into_iter().flatten().collect()
    }

    #[test]
    fn health_watches_are_bounded_and_every_connection_has_its_first() {
        for wanted in [1, 2, 4, 20].map(|times| FURTHER_HEALTH_WATCHES / 2 * times) {
            let load = Arc::new(Load::default());
            let greedy: Vec<_> = (0..5).map(|_| connection(&load)).collect();
            let taken: Vec<_> = greedy.iter().map(|one| watches(one, wanted / 5)).collect();
            let all: usize = taken.iter().map(Vec::len).sum();
            assert!(all <= FURTHER_HEALTH_WATCHES + greedy.len(), "{all} of {wanted}");
            if wanted <= FURTHER_HEALTH_WATCHES / 2 {
                assert_eq!(all, wanted);
            } else {
                assert!(all > FURTHER_HEALTH_WATCHES / 2, "{all} of {wanted}");
            }
            // What there is left of them is for those who come late.
            let late = connection(&load);
            assert!(watches(&late, 3).len() > 1, "{wanted}");
            for (connection, taken) in greedy.iter().zip(taken) {
                for taken in taken {
                    connection.end(taken);
                }
            }
            let alone = connection(&load);
            assert!(watches(&alone, FURTHER_HEALTH_WATCHES).len() >= FURTHER_HEALTH_WATCHES / 2 - 1);
        }
    }

    #[test]
    fn a_first_watch_is_possible_when_all_further_ones_are_taken() {
        let load = Arc::new(Load::default());
        let all: Vec<_> = (0..2 * FURTHER_HEALTH_WATCHES)
            .map(|_| connection(&load))
            .collect();
        let taken: usize = all.iter().map(|one| watches(one, 2).len()).sum();
        assert_eq!(taken, all.len() + FURTHER_HEALTH_WATCHES);
        assert_eq!(watches(&connection(&load), 2), [Taken::HealthWatch]);
    }

    #[test]
    fn a_full_server_says_how_it_is_but_not_without_end() {
        let load = Arc::new(Load::default());
        let connection = connection(&load);
        let call = connection.begin(Method::GetLatestVideo, limits(1));
        let refusal = Err(CallError::TooManyCalls(1));
        assert_eq!(connection.begin(Method::GetLatestVideo, limits(1)), refusal);
        let mut checks = vec![];
        for _ in 0..HEALTH_CALLS {
            checks.push(connection.begin(Method::HealthCheck, limits(1)));
        }
        assert!(checks.iter().all(Result::is_ok), "{checks:?}");
        assert_eq!(connection.begin(Method::HealthCheck, limits(1)), refusal);
        assert_eq!(load.calls(), 1 + HEALTH_CALLS);
        for taken in checks.into_iter().chain([call]).flatten() {
            connection.end(taken);
        }
        assert_eq!(load.calls(), 0);
        assert!(connection.begin(Method::HealthCheck, limits(1)).is_ok());
    }

    #[test]
    fn a_connection_for_probes_has_checks_and_nothing_else() {
        let load = Arc::new(Load::default());
        let connection = Activity::new(Arc::clone(&load), Arc::default(), true);
        assert!(connection.begin(Method::HealthCheck, limits(1)).is_ok());
        for method in [Method::GetLatestVideo, Method::HealthWatch, Method::Reflection] {
            assert_eq!(
                connection.begin(method, limits(9)),
                Err(CallError::TooManyConnections)
            );
        }
        assert_eq!(load.calls(), 1);
    }
}
