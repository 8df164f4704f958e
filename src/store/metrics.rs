//! Metrics that all stores have in common.

use std::time::Instant;

use prometheus_client::{
    metrics::{family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::metrics::{SECONDS, metric};

/// Durations of operations, by operation and outcome.
#[derive(Clone, Debug)]
pub(super) struct OperationMetrics(Family<Labels, Histogram, fn() -> Histogram>);

type Labels = [(&'static str, &'static str); 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There was an entry.
    Hit,
    /// There was none; of a lease: another replica holds it.
    Miss,
    /// It was done.
    Ok,
    /// It failed or timed out.
    Error,
    /// It was not attempted: the store is failing.
    Skipped,
}

impl Default for OperationMetrics {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(SECONDS)))
    }
}

impl OperationMetrics {
    /// Records an operation that began at `began` and ends now.
    pub(super) fn observe(&self, operation: &'static str, outcome: Outcome, began: Instant) {
        let outcome = match outcome {
            Outcome::Hit => "hit",
            Outcome::Miss => "miss",
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Skipped => "skipped",
        };
        self.0
            .get_or_create(&[("operation", operation), ("outcome", outcome)])
            .observe(began.elapsed().as_secs_f64());
    }

    /// Registers the metrics, and a gauge for whether the store is `up`.
    pub(super) fn register(&self, registry: &mut Registry, up: impl Fn() -> bool + Send + Sync + 'static) {
        registry.register_with_unit(
            "store_operation_duration",
            "Operations of the store (load, lease, save): hit or ok; miss (no entry, a lease held elsewhere, or something newer was saved); error; skipped (the store \
             fails, or its queue is full)",
            Unit::Seconds,
            self.0.clone(),
        );
        metric(
            registry,
            "store_up",
            "1 while the store is in use, 0 while it fails",
            move || ConstGauge::new(i64::from(up())),
        );
    }
}
