//! What every store counts, and how it tells of its troubles: each once, and its end once.

use std::{
    fmt::{Debug, Display},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::metrics::{SECONDS, gauge};

/// How long operations took, by what came of them.
type Durations = Family<[(&'static str, &'static str); 2], Histogram, fn() -> Histogram>;

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
pub(super) struct Operations {
    /// What it is called in the log.
    name: Arc<str>,
    durations: Durations,
    /// The parts that are in trouble.
    trouble: Arc<AtomicU8>,
}

impl Operations {
    /// None yet, of the store called `name`, which is well.
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            trouble: Arc::default(),
        }
    }

    /// Counts an `operation` (load, lease or save) that was `begun` and has come to this `outcome` (hit, miss, ok, error, skipped).
    pub(super) fn observe(&self, operation: &'static str, outcome: &'static str, begun: Instant) {
        self.durations
            .get_or_create(&[("operation", operation), ("outcome", outcome)])
            .observe(begun.elapsed().as_secs_f64());
    }

    /// `part` is in trouble. Said once, until it is well again.
    pub(super) fn down(&self, part: Part, why: impl Display) {
        if self.trouble.fetch_or(part as u8, Relaxed) & part as u8 == 0 {
            let name = &self.name;
            tracing::warn!(
                "{part:?} fails in the store {name} ({why}): plaque goes on without it, and tries again"
            );
        }
    }

    /// `part` is well.
    pub(super) fn up(&self, part: Part) {
        if self.is_down(part) && self.trouble.fetch_and(!(part as u8), Relaxed) & part as u8 != 0 {
            tracing::info!("{part:?} works again in the store {}", self.name);
        }
    }

    /// Whether `part` is in trouble.
    pub(super) fn is_down(&self, part: Part) -> bool {
        self.trouble.load(Relaxed) & part as u8 != 0
    }

    /// Makes the numbers known to whoever reads `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "store_operation_duration_seconds",
            "What was asked of the store, by what came of it",
            self.durations.clone(),
        );
        let trouble = Arc::clone(&self.trouble);
        let up = move || u64::from(trouble.load(Relaxed) == 0);
        gauge(registry, "store_up", "Whether the store works: 1 if so", up);
    }
}
