//! Metrics of the queue and its budget by class, read from the dispatcher when they are scraped.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeMetric,
    metrics::{TypedMetric, counter::ConstCounter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::Queue;
use crate::{
    dispatch::{Class, Counters, Dispatcher},
    metrics::{family, metric},
};

/// The buckets of waits, in seconds: most lookups do not wait, and the longest wait is 5 s by default.
const WAITS: [f64; 12] = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0];

type ByClass = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

#[derive(Clone)]
pub(super) struct Waits(ByClass);

impl Default for Waits {
    fn default() -> Self {
        let waits = ByClass::new_with_constructor(|| Histogram::new(WAITS));
        for class in Class::ALL {
            // Create them now: a rate needs a first value.
            drop(waits.get_or_create(&label(class)));
        }
        Self(waits)
    }
}

impl Waits {
    pub(super) fn observe(&self, class: Class, waited: Duration) {
        self.0.get_or_create(&label(class)).observe(waited.as_secs_f64());
    }
}

impl Queue {
    pub(in crate::youtube) fn register(self: &Arc<Self>, registry: &mut Registry) {
        let queue = Arc::clone(self);
        metric(registry, "upstream_queue", "Queued lookups", move || {
            ConstGauge::new(u64::from(queue.state.lock().dispatcher.queued()))
        });
        registry.register_with_unit(
            "upstream_queue_wait",
            "How long sent lookups were queued, by class",
            Unit::Seconds,
            self.waits.0.clone(),
        );
        self.register_counters(registry);
        self.register_by_class(
            registry,
            "upstream_queue_callers",
            "Callers with queued lookups, by class",
            |dispatcher, class| ConstGauge::new(u64::from(dispatcher.callers(class))),
        );
        // Without a rate there is no budget.
        if let Some(rate) = self.rate {
            metric(
                registry,
                "upstream_rate_limit",
                "The limit of requests a second (--upstream-rate); absent without one",
                move || ConstGauge::new(rate),
            );
        }
    }

    fn register_counters(self: &Arc<Self>, registry: &mut Registry) {
        self.register_by_class(
            registry,
            "upstream_queued",
            "Queued lookups by class: awaited_known (a caller waits for a channel that was found before), awaited_unknown, refresh, poll",
            |dispatcher, class| ConstGauge::new(u64::from(dispatcher.counters(class).queued)),
        );
        let counters: [(_, _, Count); 4] = [
            (
                "upstream_admitted",
                "Lookups admitted to the queue, by class",
                |counters| counters.admitted,
            ),
            (
                "upstream_refused",
                "Lookups rejected because they would have been sent too late, by class; their callers get OVERLOADED",
                |counters| counters.refused,
            ),
            (
                "upstream_dropped",
                "Lookups that left the queue without being sent, by class",
                |counters| counters.cancelled + counters.expired + counters.returned,
            ),
            (
                "upstream_sent",
                "Requests sent, by class: what was used of the rate",
                |counters| counters.sent,
            ),
        ];
        for (name, help, read) in counters {
            self.register_by_class(registry, name, help, move |dispatcher, class| {
                ConstCounter::new(read(dispatcher.counters(class)))
            });
        }
    }

    fn register_by_class<M>(
        self: &Arc<Self>,
        registry: &mut Registry,
        name: &'static str,
        help: &'static str,
        read: impl Fn(&Waiting, Class) -> M + Send + Sync + 'static,
    ) where
        M: EncodeMetric + TypedMetric + 'static,
    {
        let queue = Arc::clone(self);
        family(registry, name, help, "class", move || {
            let dispatcher = &queue.state.lock().dispatcher;
            Class::ALL.map(|class| (class_name(class), read(dispatcher, class)))
        });
    }
}

type Waiting = Dispatcher<super::PermitSender>;

type Count = fn(Counters) -> u64;

fn label(class: Class) -> [(&'static str, &'static str); 1] {
    [("class", class_name(class))]
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::AwaitedKnown => "awaited_known",
        Class::AwaitedUnknown => "awaited_unknown",
        Class::Refresh => "refresh",
        Class::Poll => "poll",
    }
}
