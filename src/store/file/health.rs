//! Metrics of the file, and whether it works: an outage is logged once when it begins and once when it ends.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use prometheus_client::registry::Registry;

use crate::store::metrics::{OperationMetrics, Outcome};

#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Loading entries.
    Reading = 1,
    /// Committing entries.
    Writing = 2,
}

/// Metrics and current failures of one store.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// The store's name in the log.
    name: Arc<str>,
    metrics: OperationMetrics,
    /// The parts that are failing, as bits.
    failing: Arc<AtomicU8>,
}

impl Health {
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            metrics: OperationMetrics::default(),
            failing: Arc::default(),
        }
    }

    /// Records an `operation` (load, lease or save) that began at `begun`.
    pub(super) fn observe(&self, operation: &'static str, outcome: Outcome, begun: Instant) {
        self.metrics.observe(operation, outcome, begun);
    }

    /// Notes that `part` fails. Logged unless it was failing already.
    pub(super) fn report_failure(&self, part: Part, why: impl Display) {
        if self.failing.fetch_or(part as u8, Relaxed) & part as u8 == 0 {
            let name = &self.name;
            tracing::warn!(
                "{part:?} fails in the store {name} ({why}): plaque continues without it and retries"
            );
        }
    }

    /// Notes that `part` works. Logged if it was failing.
    pub(super) fn report_success(&self, part: Part) {
        if self.is_failing(part) && self.failing.fetch_and(!(part as u8), Relaxed) & part as u8 != 0 {
            tracing::info!("{part:?} works again in the store {}", self.name);
        }
    }

    pub(super) fn is_failing(&self, part: Part) -> bool {
        self.failing.load(Relaxed) & part as u8 != 0
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let failing = Arc::clone(&self.failing);
        self.metrics
            .register(registry, move || failing.load(Relaxed) == 0);
    }
}
