//! Metrics of calls and lookups. Each serving thread has its own counters, so that threads share no cache line; they are summed when the
//! metrics are read.

use std::{
    array, fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter},
    registry::{Registry, Unit},
};

use super::method::{Ended, Method};
use crate::{
    latest::{CacheStatus, Reply},
    metrics::{self, SECONDS},
};

/// The counters of one serving thread.
#[derive(Debug)]
pub struct CallMetrics {
    calls: Box<[[Durations; Ended::COUNT]; Method::COUNT]>,
    lookups: [AtomicU64; CACHE_STATUS.len()],
}

/// The values of the label `cache_status`.
const CACHE_STATUS: [&str; 5] = ["hit", "stale", "collapsed", "miss", "negative"];

/// A histogram of durations.
#[derive(Debug)]
struct Durations {
    /// The counts for each bound of [`SECONDS`], and for longer durations.
    counts: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            calls: Box::new(array::from_fn(|_method| {
                array::from_fn(|_code| Durations::default())
            })),
            lookups: Default::default(),
        }
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
        }
    }
}

impl CallMetrics {
    /// Counts a call that ended after `duration`.
    pub fn record_call(&self, method: Method, ended: Ended, duration: Duration) {
        let durations = &self.calls[method as usize][ended.number()];
        let seconds = duration.as_secs_f64();
        let bound = SECONDS.iter().position(|bound| seconds <= *bound);
        durations.counts[bound.unwrap_or(SECONDS.len())].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        durations.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Counts the reply to a query.
    pub(super) fn record_reply(&self, reply: &Reply) {
        let status = match (&reply.cache_status, &reply.outcome) {
            (CacheStatus::Hit { .. }, Ok(answer)) if answer.stale => 1,
            (CacheStatus::Hit { .. }, Ok(_)) => 0,
            (CacheStatus::Hit { .. }, Err(_)) => 4,
            (CacheStatus::Forwarded { collapsed: true, .. }, _) => 2,
            (CacheStatus::Forwarded { collapsed: false, .. }, _) => 3,
        };
        self.lookups[status].fetch_add(1, Relaxed);
    }
}

/// What was counted: in all, or in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTotals {
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them whose status was not OK.
    pub errors: u64,
    /// Queries by the value of the label `cache_status`: hit, stale, collapsed, miss, negative.
    pub lookups: [u64; CACHE_STATUS.len()],
}

impl CallTotals {
    /// The sums of `threads`.
    #[must_use]
    pub fn of(threads: &[Arc<CallMetrics>]) -> Self {
        let mut totals = Self::default();
        for thread in threads {
            for (code, durations) in thread.calls.iter().flat_map(|codes| codes.iter().enumerate()) {
                let calls: u64 = durations.counts.iter().map(|count| count.load(Relaxed)).sum();
                totals.calls += calls;
                totals.errors += if code == 0 { 0 } else { calls };
            }
            for (sum, count) in totals.lookups.iter_mut().zip(&thread.lookups) {
                *sum += count.load(Relaxed);
            }
        }
        totals
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            errors: self.errors.saturating_sub(earlier.errors),
            lookups: array::from_fn(|status| self.lookups[status].saturating_sub(earlier.lookups[status])),
        }
    }
}

/// Registers the sums of `threads`: calls by OpenTelemetry's names, the rest by plaque's.
pub fn register(threads: Vec<Arc<CallMetrics>>, registry: &mut Registry) {
    let all = threads.clone();
    metrics::read(registry, move |encoder| calls(&all, encoder));
    let sum = move |status: usize| {
        threads
            .iter()
            .map(|thread| thread.lookups[status].load(Relaxed))
            .sum::<u64>()
    };
    metrics::family(
        registry,
        "plaque_lookups",
        "Queries answered, of which a batch has several: hit, stale (a hit, but stale), collapsed (joined another caller's lookup), miss \
         (started a lookup), negative (a cached error)",
        "cache_status",
        move || {
            array::from_fn::<_, { CACHE_STATUS.len() }, _>(|status| {
                (CACHE_STATUS[status], ConstCounter::new(sum(status)))
            })
        },
    );
}

fn calls(threads: &[Arc<CallMetrics>], mut encoder: DescriptorEncoder) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "rpc_server_call_duration",
        "Duration of ended calls, by OpenTelemetry's names, and of requests for JSON; a watch lasts until it ends",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for method in Method::all() {
        for ended in Ended::all() {
            let all = threads
                .iter()
                .map(|thread| &thread.calls[method as usize][ended.number()]);
            let (mut counts, mut nanoseconds) = ([0; SECONDS.len() + 1], 0);
            for durations in all {
                for (sum, count) in counts.iter_mut().zip(&durations.counts) {
                    *sum += count.load(Relaxed);
                }
                nanoseconds += durations.nanoseconds.load(Relaxed);
            }
            let count = counts.iter().sum();
            if count == 0 {
                continue;
            }
            let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(counts).collect();
            let labels = [
                ("rpc_system_name", method.system()),
                ("rpc_method", method.name()),
                ("rpc_response_status_code", ended.name()),
            ];
            let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
    }
    Ok(())
}
