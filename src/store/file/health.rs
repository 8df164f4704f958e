//! What the file counts, and how it tells of its troubles: each once, and its end once.

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

/// What a store does well or badly.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Telling what is kept.
    Reading = 1,
    /// Keeping it.
    Writing = 2,
}

/// The numbers of one store.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// What it is called in the log.
    name: Arc<str>,
    metrics: OperationMetrics,
    /// The parts that are in failing.
    failing: Arc<AtomicU8>,
}

impl Health {
    /// None yet, of the store called `name`, which is well.
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            metrics: OperationMetrics::default(),
            failing: Arc::default(),
        }
    }

    /// Counts an `operation` (load, lease or save) that was `begun` and has come to this `outcome`.
    pub(super) fn observe(&self, operation: &'static str, outcome: Outcome, begun: Instant) {
        self.metrics.observe(operation, outcome, begun);
    }

    /// `part` is in failing. Said once, until it is well again.
    pub(super) fn report_failure(&self, part: Part, why: impl Display) {
        if self.failing.fetch_or(part as u8, Relaxed) & part as u8 == 0 {
            let name = &self.name;
            tracing::warn!(
                "{part:?} fails in the store {name} ({why}): plaque goes on without it, and tries again"
            );
        }
    }

    /// `part` is well.
    pub(super) fn report_success(&self, part: Part) {
        if self.is_failing(part) && self.failing.fetch_and(!(part as u8), Relaxed) & part as u8 != 0 {
            tracing::info!("{part:?} works again in the store {}", self.name);
        }
    }

    /// Whether `part` is in failing.
    pub(super) fn is_failing(&self, part: Part) -> bool {
        self.failing.load(Relaxed) & part as u8 != 0
    }

    /// Makes the numbers known to whoever reads `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let failing = Arc::clone(&self.failing);
        self.metrics
            .register(registry, move || failing.load(Relaxed) == 0);
    }
}
