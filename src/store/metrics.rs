//! What all stores count, under the same names.

use std::time::Instant;

use prometheus_client::{
    metrics::{family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::metrics::{SECONDS, metric};

/// How long operations took, by what came of them.
#[derive(Clone, Debug)]
pub(super) struct OperationMetrics(Family<Labels, Histogram, fn() -> Histogram>);

type Labels = [(&'static str, &'static str); 2];

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Something was there.
    Hit,
    /// Nothing was there; of a lease: another has it.
    Miss,
    /// It was done.
    Ok,
    /// It was not, or not in time.
    Error,
    /// It was not tried: the store is in trouble.
    Skipped,
}

impl Default for OperationMetrics {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(SECONDS)))
    }
}

impl OperationMetrics {
    /// Counts an operation that began at `began` and ends now.
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

    /// Makes it known, and whether the store is `up`.
    pub(super) fn register(&self, registry: &mut Registry, up: impl Fn() -> bool + Send + Sync + 'static) {
        registry.register_with_unit(
            "store_operation_duration",
            "Operations of the store, by what came of them",
            Unit::Seconds,
            self.0.clone(),
        );
        metric(
            registry,
            "store_up",
            "1 if the store is in use, 0 if it is in trouble",
            move || ConstGauge::new(i64::from(up())),
        );
    }
}
