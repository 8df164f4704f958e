//! The day's units as they are spent: the [`Budget`], what other replicas spend, metrics, and one line in the log when requests stop and
//! when they go on.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    ApiError,
    budget::{Budget, Day, Refusal},
};
use crate::{metrics, upstream::Purpose};

/// The units that all replicas have spent, and those from before a restart: a store.
pub trait SharedUnits: Send + Sync {
    /// Adds `units` to those of `day`, and returns their sum; 0 just asks for it. `None` if the store cannot be reached: the units
    /// are added later. Must end by itself, within a fraction of a lookup's time. A day's number is of no use two days later.
    fn add(&self, day: Day, units: u64) -> BoxFuture<'_, Option<u64>>;
}

/// Who spends units asks here first. A clone shares everything.
#[derive(Clone)]
pub struct Ledger {
    /// Never held while the store is asked.
    state: Arc<Mutex<State>>,
    shared: Option<Arc<dyn SharedUnits>>,
    /// Since the start, of this replica.
    total: Arc<AtomicU64>,
}

struct State {
    budget: Budget,
    /// The day whose sum the store has told.
    loaded: Option<Day>,
    /// What the store has not been told of a day.
    unsaved: (Day, u64),
    /// The refusal that is in the log.
    reported: Option<Refusal>,
}

impl Ledger {
    /// `quota` units a day, shared with whoever has the same `shared`.
    #[must_use]
    pub fn new(quota: u64, shared: Option<Arc<dyn SharedUnits>>, now: SystemTime) -> Self {
        let budget = Budget::new(quota, now);
        let state = State {
            loaded: None,
            unsaved: (budget.day(), 0),
            reported: None,
            budget,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            shared,
            total: Arc::default(),
        }
    }

    /// Spends a unit for a request with the key of this generation.
    ///
    /// # Errors
    ///
    /// If there is none for this purpose, here or by what all replicas have spent.
    pub async fn spend(&self, purpose: Purpose, now: SystemTime, key: u64) -> Result<(), ApiError> {
        let day = Day::of(now);
        if self.state.lock().loaded != Some(day) {
            self.save(day, 0).await;
        }
        self.state.lock().budget.try_spend(purpose, now, key)?;
        self.save(day, 1).await;
        // Others may have taken it.
        self.state.lock().budget.check()?;
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Google answered a request with the key of this generation: with a refusal, or not.
    pub async fn report(&self, refusal: Option<Refusal>, now: SystemTime, key: u64) {
        let lost = {
            let mut state = self.state.lock();
            let lost = refusal.map_or(0, |refusal| state.budget.close(refusal, now, key));
            if state.reported != refusal {
                state.reported = refusal;
                if let Some(refusal) = refusal {
                    let reset = humantime::format_rfc3339_seconds(state.budget.day().end());
                    tracing::warn!(%reset, "{refusal}");
                } else {
                    tracing::info!("the YouTube Data API answers again");
                }
            }
            lost
        };
        if lost > 0 {
            self.save(Day::of(now), lost).await;
        }
    }

    /// The units that are left for today, by what is known, and when there are new ones.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> (u64, SystemTime) {
        let mut state = self.state.lock();
        state.budget.advance(now);
        (state.budget.left(), state.budget.day().end())
    }

    /// The units of a day.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.state.lock().budget.quota()
    }

    /// The last refusal, unless Google has answered since.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.state.lock().reported
    }

    /// Makes the units known to whoever reads `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let total = Arc::clone(&self.total);
        metrics::metric(
            registry,
            "youtube_api_units",
            "Units of the YouTube Data API that this replica has spent",
            move || ConstCounter::new(total.load(Ordering::Relaxed)),
        );
        let ledger = self.clone();
        metrics::metric(
            registry,
            "youtube_api_units_left",
            "Units of the YouTube Data API that are left for today, for all replicas that share a store",
            move || ConstGauge::new(ledger.left(SystemTime::now()).0),
        );
        let ledger = self.clone();
        metrics::metric(
            registry,
            "youtube_api_reset_timestamp_seconds",
            "When there are new units of the YouTube Data API",
            move || {
                let (_, reset) = ledger.left(SystemTime::now());
                let since = reset.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                ConstGauge::new(since.as_secs())
            },
        );
    }

    /// Tells the store of units that are spent, and learns from it what others spend. If this future is dropped, the store may count
    /// units that this replica has not; it never misses any that it could have been told.
    async fn save(&self, day: Day, units: u64) {
        let Some(shared) = &self.shared else {
            return;
        };
        let units = {
            let mut state = self.state.lock();
            let (of, unsaved) = state.unsaved;
            state.unsaved = (day, 0);
            units + if of == day { unsaved } else { 0 }
        };
        let sum = shared.add(day, units).await;
        let mut state = self.state.lock();
        match sum {
            Some(sum) => {
                state.budget.learn(day, sum);
                state.loaded = Some(day);
            }
            None if state.unsaved.0 == day => state.unsaved.1 += units,
            None => {}
        }
    }
}
