//! Metrics, and what the admin port shows: flights in progress, cached channels and the newest uploads.

use std::sync::Arc;

use coalesce::FlightInfo;
use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{FeedEntry, Latest};
use crate::{
    clock,
    metrics::{family, metric},
    upstream::Feed,
    video::Channel,
};

/// Reads the current value of a metric.
type Number = fn(&Latest) -> u64;

impl Latest {
    /// The flights in progress, the oldest first.
    #[must_use]
    pub fn in_progress(&self) -> Vec<FlightInfo<Feed>> {
        let mut flights = self.coalescer.flights();
        flights.sort_by_key(|flight| flight.started_at);
        flights
    }

    /// The cached feeds. A scan takes about a microsecond per channel.
    pub fn cached(&self) -> impl Iterator<Item = (Feed, Arc<FeedEntry>)> {
        self.coalescer.iter()
    }

    /// The newest uploads of all channels that were looked up since the start, at most `most` and 32: a channel, and the upload's place
    /// there.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<(Arc<Channel>, usize)> {
        self.fetcher.newest.get(most)
    }

    /// Runs the cache's pending maintenance, so that its counts are up to date.
    pub async fn tidy(&self) {
        self.coalescer.run_pending_tasks().await;
    }

    /// Registers the metrics.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let reader = |value: Number| {
            let latest = Arc::clone(self);
            move || value(&latest)
        };
        let latest = Arc::clone(self);
        let age = move || {
            latest
                .in_progress()
                .first()
                .map_or(ConstGauge::new(0.0), |oldest| {
                    ConstGauge::new(oldest.started_at.elapsed().as_secs_f64())
                })
        };
        metric(
            registry,
            "flight_age_max_seconds",
            "The age of the oldest lookup in progress",
            age,
        );
        let latest = Arc::clone(self);
        let evictions = move || {
            [
                ("size", ConstCounter::new(latest.coalescer.evictions())),
                ("expired", ConstCounter::new(latest.coalescer.expirations())),
            ]
        };
        family(
            registry,
            "cache_evictions",
            "Feeds removed from the cache: size (the cache was full) or expired",
            "cause",
            evictions,
        );

        self.fetcher.fallbacks.register(registry);
        let latest = Arc::clone(self);
        let canary = move || {
            let lookups = latest.fetcher.canary_lookups();
            lookups.map(|(outcome, count)| (outcome, ConstCounter::new(count)))
        };
        family(
            registry,
            "canary_lookups",
            "Lookups of the canary: found, not_found or error",
            "outcome",
            canary,
        );

        let gauges: [(_, _, Number); 8] = [
            ("flights", "Lookups in progress, queued included", |latest| {
                latest.flights() as u64
            }),
            ("waiters", "Callers that wait for lookups", |latest| {
                latest.waiting() as u64
            }),
            ("cache_entries", "Cached feeds", |latest| {
                latest.coalescer.entry_count()
            }),
            (
                "cache_weight_bytes",
                "The memory that cached feeds take",
                |latest| latest.coalescer.weighted_size(),
            ),
            ("watched_channels", "Channels that are watched", |latest| {
                latest.watched() as u64
            }),
            (
                "watches",
                "Watched channels, counted once for each watch",
                |latest| latest.hubs().watched() as u64,
            ),
            (
                "upstream_outage",
                "1 while a 404 means nothing, as the upstream answers it for channels that exist; else 0",
                |latest| latest.fetcher.is_outage_under_way(clock::now()).into(),
            ),
            (
                "upstream_hanging",
                "1 while the feed is skipped, as it hangs and there are other sources; else 0",
                |latest| latest.fetcher.hang.is_open().into(),
            ),
        ];
        for (name, help, value) in gauges {
            let read = reader(value);
            metric(registry, name, help, move || ConstGauge::new(read()));
        }
        let counters: [(_, _, Number); 2] = [
            ("flights_started", "Lookups started", |latest| {
                latest.coalescer.flights_started()
            }),
            ("polls", "Polls of watched channels", |latest| {
                latest.hubs().polls()
            }),
        ];
        for (name, help, value) in counters {
            let read = reader(value);
            metric(registry, name, help, move || ConstCounter::new(read()));
        }
        self.hubs().register(registry);
        self.register_store(registry);
    }

    fn register_store(self: &Arc<Self>, registry: &mut Registry) {
        if let Some(store) = self.fetcher.store() {
            store.register(registry);
            let latest = Arc::clone(self);
            let lost = move || ConstCounter::new(latest.fetcher.lost_messages.get());
            metric(
                registry,
                "store_messages_lost",
                "Messages of other replicas that were lost because there were too many; watched channels are loaded again",
                lost,
            );
        }
    }
}
