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

use crate::store::tally::{Outcome, Tally};

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
    tally: Tally,
    /// The parts that are in trouble.
    trouble: Arc<AtomicU8>,
}

impl Operations {
    /// None yet, of the store called `name`, which is well.
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            tally: Tally::default(),
            trouble: Arc::default(),
        }
    }

    /// Counts an `operation` (load, lease or save) that was `begun` and has come to this `outcome`.
    pub(super) fn observe(&self, operation: &'static str, outcome: Outcome, begun: Instant) {
        self.tally.count(operation, outcome, begun);
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
        let trouble = Arc::clone(&self.trouble);
        self.tally.register(registry, move || trouble.load(Relaxed) == 0);
    }
}
