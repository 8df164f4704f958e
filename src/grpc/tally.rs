//! What has been answered, counted where it happens: by each serving thread for itself, so that no two share a cache line, and
//! added up when somebody asks.

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
    latest::{Made, Reply},
    metrics::{self, SECONDS},
};

/// What one serving thread has answered.
#[derive(Debug)]
pub struct Tally {
    calls: Box<[[Durations; Ended::COUNT]; Method::COUNT]>,
    lookups: [AtomicU64; CACHE_STATUS.len()],
}

/// How questions are answered, as metrics call it.
const CACHE_STATUS: [&str; 5] = ["hit", "stale", "collapsed", "miss", "negative"];

/// How many took how long.
#[derive(Debug)]
struct Durations {
    /// Up to each of [`SECONDS`], and longer.
    counts: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Default for Tally {
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

impl Tally {
    /// Counts a call that has ended after so long.
    pub fn ended(&self, method: Method, ended: Ended, after: Duration) {
        let durations = &self.calls[method as usize][ended.number()];
        let seconds = after.as_secs_f64();
        let bound = SECONDS.iter().position(|bound| seconds <= *bound);
        durations.counts[bound.unwrap_or(SECONDS.len())].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        durations.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Counts a question that was answered.
    pub(super) fn answered(&self, reply: &Reply) {
        let how = match (&reply.made, &reply.outcome) {
            (Made::Hit { .. }, Ok(answer)) if answer.stale => 1,
            (Made::Hit { .. }, Ok(_)) => 0,
            (Made::Hit { .. }, Err(_)) => 4,
            (Made::Forwarded { collapsed: true, .. }, _) => 2,
            (Made::Forwarded { collapsed: false, .. }, _) => 3,
        };
        self.lookups[how].fetch_add(1, Relaxed);
    }
}

/// Makes what `tallies` count known to whoever reads `registry`: calls by OpenTelemetry's names, the rest by plaque's.
pub fn register(tallies: Vec<Arc<Tally>>, registry: &mut Registry) {
    let all = tallies.clone();
    metrics::read(registry, move |encoder| calls(&all, encoder));
    let sum = move |how: usize| {
        tallies
            .iter()
            .map(|tally| tally.lookups[how].load(Relaxed))
            .sum::<u64>()
    };
    metrics::family(
        registry,
        "plaque_lookups",
        "Questions answered, of which a batch asks several, by how",
        "cache_status",
        move || {
            array::from_fn::<_, { CACHE_STATUS.len() }, _>(|how| {
                (CACHE_STATUS[how], ConstCounter::new(sum(how)))
            })
        },
    );
}

fn calls(tallies: &[Arc<Tally>], mut encoder: DescriptorEncoder) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "rpc_server_call_duration",
        "Calls that have ended, by method and status code; a watch with all that it sent",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for method in Method::all() {
        for ended in Ended::all() {
            let all = tallies
                .iter()
                .map(|tally| &tally.calls[method as usize][ended.number()]);
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
