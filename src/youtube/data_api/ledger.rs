//! Spends the day's units: the [`Budget`], together with what other replicas spend; metrics; and one line in the log when Google begins to
//! refuse requests, and one when that ends.

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
use tokio::runtime::Handle;

use super::{
    ApiError, KeyId,
    budget::{Budget, Day, Refusal, Use},
};
use crate::metrics;

/// A store that counts the units of all replicas, and those from before a restart.
pub trait SharedUnits: Send + Sync {
    /// Adds `units`, which may be 0, to those that were spent on `day` with the key of this fingerprint, and returns their sum. `None` if the
    /// store cannot be reached: the units are added later. Must end within a fraction of a lookup's time. A day need not be kept for more
    /// than two days.
    fn add(&self, day: Day, key: u16, units: u64) -> BoxFuture<'_, Option<u64>>;
}

/// Grants units. Clones share everything.
#[derive(Clone)]
pub struct Ledger {
    /// Never locked across an await.
    state: Arc<Mutex<State>>,
    shared: Option<Arc<dyn SharedUnits>>,
    /// What this replica has spent since it was started.
    total: Arc<AtomicU64>,
}

struct State {
    budget: Budget,
    /// The day and the key whose sum was loaded from the store.
    loaded: Option<(Day, KeyId)>,
    /// A day, a key, and their units that were not added in the store.
    unsaved: (Day, KeyId, u64),
    /// The refusal that was logged, with its key.
    reported: Option<(KeyId, Refusal)>,
}

impl Ledger {
    /// A ledger of `quota` units a day, which are shared with others by `shared`.
    #[must_use]
    pub fn new(quota: u64, shared: Option<Arc<dyn SharedUnits>>, now: SystemTime) -> Self {
        let budget = Budget::new(quota, now);
        let state = State {
            loaded: None,
            unsaved: (budget.day(), KeyId::default(), 0),
            reported: None,
            budget,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            shared,
            total: Arc::default(),
        }
    }

    /// Spends a unit for a request with this key.
    ///
    /// # Errors
    ///
    /// If there is none for this use.
    pub async fn spend(&self, spend_for: Use, now: SystemTime, key: KeyId) -> Result<(), ApiError> {
        let day = Day::of(now);
        let is_loaded = {
            let mut state = self.state.lock();
            state.budget.advance(now, key);
            state.loaded == Some((day, key))
        };
        if !is_loaded {
            self.save(day, key, 0).await;
        }
        self.state.lock().budget.try_spend(spend_for, now, key)?;
        self.save(day, key, 1).await;
        // Another replica may have spent the last one.
        self.state.lock().budget.check()?;
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that a unit is left for this use and this key, as far as this replica knows.
    pub(super) fn check(&self, spend_for: Use, now: SystemTime, key: KeyId) -> Result<(), ApiError> {
        self.state.lock().budget.is_left(spend_for, now, key)
    }

    /// The one of these uses for which a unit is the likeliest to be there.
    pub(super) fn likeliest(&self, uses: impl IntoIterator<Item = Use>, now: SystemTime) -> Option<Use> {
        self.state.lock().budget.likeliest(uses, now)
    }

    /// Notes that Google answered a request with this key, with this refusal if there was one.
    pub async fn report(&self, refusal: Option<Refusal>, now: SystemTime, key: KeyId) {
        let lost = {
            let mut state = self.state.lock();
            if state.budget.is_replaced(key) {
                return;
            }
            let lost = refusal.map_or(0, |refusal| state.budget.close(refusal, now, key));
            let before = state.reported.map(|(_, refusal)| refusal);
            state.reported = refusal.map(|refusal| (key, refusal));
            if before != refusal {
                if let Some(refusal) = refusal {
                    let time = |at| tracing::field::display(humantime::format_rfc3339_seconds(at));
                    let reset = time(state.budget.day().end());
                    let retry_at = state.budget.reopens_at().map(time);
                    tracing::warn!(reset, retry_at, "{refusal}");
                } else {
                    tracing::info!("the YouTube Data API answers again");
                }
            }
            lost
        };
        if lost > 0 {
            self.save(Day::of(now), key, lost).await;
        }
    }

    /// The units of this key that are left for today, as far as is known, and when there are new ones. What others have spent is loaded in the
    /// background if that was not done yet.
    #[must_use]
    pub fn left(&self, now: SystemTime, key: KeyId) -> (u64, SystemTime) {
        let day = Day::of(now);
        let mut state = self.state.lock();
        state.budget.advance(now, key);
        if self.shared.is_some()
            && state.loaded != Some((day, key))
            && let Ok(runtime) = Handle::try_current()
        {
            let ledger = self.clone();
            runtime.spawn(async move { ledger.save(day, key, 0).await });
        }
        (state.budget.left(), state.budget.day().end())
    }

    /// The units of a day.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.state.lock().budget.quota()
    }

    /// The last refusal of this key, unless Google has answered since.
    #[must_use]
    pub fn refusal(&self, key: KeyId) -> Option<Refusal> {
        let reported = self.state.lock().reported;
        reported.filter(|(of, _)| *of == key).map(|(_, refusal)| refusal)
    }

    /// Registers the metrics of units, for the key that `key` returns.
    pub fn register(&self, registry: &mut Registry, key: impl Fn() -> KeyId + Send + Sync + 'static) {
        let total = Arc::clone(&self.total);
        metrics::metric(
            registry,
            "youtube_api_units",
            "Units of the YouTube Data API that this replica has spent",
            move || ConstCounter::new(total.load(Ordering::Relaxed)),
        );
        // Loads what was spent before the start.
        let _ = self.left(SystemTime::now(), key());
        let key = Arc::new(key);
        let (ledger, current) = (self.clone(), Arc::clone(&key));
        metrics::metric(
            registry,
            "youtube_api_units_left",
            "Units of the YouTube Data API that the key in the file has left for today, for all replicas that share a store",
            move || ConstGauge::new(ledger.left(SystemTime::now(), current()).0),
        );
        let ledger = self.clone();
        metrics::metric(
            registry,
            "youtube_api_reset_timestamp_seconds",
            "When there are new units of the YouTube Data API",
            move || {
                let (_, reset) = ledger.left(SystemTime::now(), key());
                let since = reset.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                ConstGauge::new(since.as_secs())
            },
        );
    }

    /// Adds units in the store, and learns from it what others spend. If this future is dropped, the store may count units that were not
    /// spent, but never too few.
    async fn save(&self, day: Day, key: KeyId, units: u64) {
        let Some(shared) = &self.shared else {
            return;
        };
        let units = {
            let mut state = self.state.lock();
            let (of, with, unsaved) = state.unsaved;
            state.unsaved = (day, key, 0);
            units + if (of, with) == (day, key) { unsaved } else { 0 }
        };
        let sum = shared.add(day, key.fingerprint, units).await;
        let mut state = self.state.lock();
        match sum {
            Some(sum) => {
                state.budget.learn(day, key, sum);
                state.loaded = Some((day, key));
            }
            None if (state.unsaved.0, state.unsaved.1) == (day, key) => state.unsaved.2 += units,
            None => {}
        }
    }
}
