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
        "Queries answered, of which a batch has several, by cache status",
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
        "Duration of calls that have ended, by method and status code; a watch lasts until it ends",
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
                ("rpc_system_name", "grpc"),
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
