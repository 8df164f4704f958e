//! The upstream lookups that replicas save by sharing a store.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_util::{FutureExt as _, future::join_all};
use plaque::{
    latest::{Latest, Policy, Settings},
    video::ChannelId,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::time::interval;

use super::{Bench, Fake, cpu, figures::figure, query, table::table};

/// The number of channels.
pub const CHANNELS: u32 = 10_000;

const REPLICAS: [u32; 3] = [1, 3, 10];

/// Calls per millisecond, for all replicas together.
const CALLS: u32 = 5;

/// Roughly the duration of a request to YouTube.
const UPSTREAM_TAKES: Duration = Duration::from_millis(50);

/// A tenth of the default, so that a minute has several such periods.
const FRESH_FOR: Duration = Duration::from_secs(6);

/// In multiples of `FRESH_FOR`, as by default.
const STALE_WHILE_REVALIDATE: u32 = 10;

/// The number of channels in a batch when caches are filled, so that replicas start as if they had run for hours.
const FILLED_AT_ONCE: usize = 100;

/// Not counted, in multiples of `FRESH_FOR`: until the next lookups of channels that were filled together are spread out.
const WARM_UP: u32 = 3;

/// Counted, in multiples of `FRESH_FOR`: popular channels are looked up once in each.
const COUNTED: u32 = 5;

/// The random seed, so that every cell has the same calls.
const SEED: u64 = 8;

pub fn report(bench: &Bench) -> String {
    let cells = Cells {
        bench,
        zipf: zipf(bench.channels.len()),
        fresh_for: FRESH_FOR / if bench.quick { 20 } else { 1 },
    };
    let mut table = table(&[
        "replicas",
        "store",
        "upstream calls to fill",
        "calls a minute",
        "upstream calls a minute",
        "reckoned",
        "/ without a store",
        "/ one replica",
        "fresh from memory",
        "stale",
        "lookups that the store answered",
        "CPU, of a core",
        "Redis's CPU",
    ]);
    let mut one = None;
    let mut trouble = 0.0;
    for replicas in REPLICAS {
        let mut without = None;
        for store in [false, true] {
            let _ = writeln!(io::stderr(), "{replicas} replicas, store: {store}");
            let minute = cells.measure(replicas, store);
            let upstream = minute.upstream_calls;
            trouble += minute.trouble;
            let percent = |part: f64| format!("{:.1} %", part * 100.0);
            let of_store = |part: f64| if store { percent(part) } else { String::new() };
            table.add_row([
                replicas.to_string(),
                if store { "Redis" } else { "none" }.to_owned(),
                figure(f64::from(minute.to_fill)),
                figure(minute.calls),
                figure(upstream),
                // With a store, as if they were one.
                figure(cells.expected_upstream_calls(if store { 1 } else { replicas })),
                figure(upstream / *without.get_or_insert(upstream)),
                figure(upstream / *one.get_or_insert(upstream)),
                percent(minute.fresh / minute.calls),
                percent(minute.stale / minute.calls),
                of_store(1.0 - upstream / minute.lookups),
                percent(minute.cpu / 60.0),
                of_store(minute.redis_cpu / 60.0),
            ]);
        }
    }
    let Policy {
        fresh_for,
        stale_while_revalidate,
        ..
    } = cells.policy();
    format!(
        "{} channels by Zipf's law (s = 1); {CALLS} calls a millisecond, to one replica after the other\n\
         fresh for {fresh_for:?}, given and looked up behind for {stale_while_revalidate:?}; an upstream that takes {UPSTREAM_TAKES:?}\n\
         {:?} counted, after {:?}; operations of the store that failure or were skipped: {trouble:.0} a minute\n{table}",
        bench.channels.len(),
        fresh_for * COUNTED,
        fresh_for * WARM_UP,
    )
}

/// The cumulative weights of the ranks.
fn zipf(channels: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let ranks = (1_u32..).take(channels);
    ranks
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect()
}

struct Cells<'a> {
    bench: &'a Bench,
    zipf: Vec<f64>,
    fresh_for: Duration,
}

/// The counts of a minute.
struct Minute {
    /// Upstream calls to fill the caches.
    to_fill: u32,
    calls: f64,
    /// Hits, by freshness.
    fresh: f64,
    stale: f64,
    lookups: f64,
    upstream_calls: f64,
    /// Operations of the store that failed or were skipped.
    trouble: f64,
    /// CPU seconds of the replicas and their callers.
    cpu: f64,
    redis_cpu: f64,
}

impl Cells<'_> {
    fn policy(&self) -> Policy {
        Policy {
            fresh_for: self.fresh_for,
            stale_while_revalidate: self.fresh_for * STALE_WHILE_REVALIDATE,
            stale_if_error: Duration::from_hours(24),
            negative_for: Duration::from_secs(30),
            min_refetch: Duration::ZERO,
        }
    }

    fn measure(&self, count: u32, store: bool) -> Minute {
        let settings = Settings {
            policy: self.policy(),
            cache_bytes: 256 << 20,
            max_waiters: 100_000,
            watch_every: Duration::from_mins(1),
            watch_at_most: Duration::from_hours(1),
            max_watched: 100_000,
            canary: None,
        };
        let upstream = self.bench.upstream(UPSTREAM_TAKES);
        let replicas: Vec<_> = (0..count)
            .map(|_| {
                let store = store.then(|| self.bench.redis(&format!("replicas-{count}")));
                let handle = self.bench.runtime.handle().clone();
                let plaque = Arc::new(Latest::new(Arc::clone(&upstream) as _, store, settings, handle));
                plaque.apply_remote_updates();
                plaque
            })
            .collect();
        self.fill(&replicas);
        let to_fill = upstream.calls();
        let mut random = Rng::with_seed(SEED);
        self.load(&replicas, &mut random, self.fresh_for * WARM_UP);
        let (begun, before) = (Instant::now(), self.counts(&replicas, &upstream));
        let [calls, fresh, stale] = self.load(&replicas, &mut random, self.fresh_for * COUNTED);
        let after = self.counts(&replicas, &upstream);
        let minutes = begun.elapsed().div_duration_f64(Duration::from_mins(1));
        let counted = |of: usize| (after[of] - before[of]) / minutes;
        Minute {
            to_fill,
            calls: f64::from(calls) / minutes,
            fresh: f64::from(fresh) / minutes,
            stale: f64::from(stale) / minutes,
            lookups: counted(0),
            upstream_calls: counted(1),
            trouble: counted(2),
            cpu: counted(3),
            redis_cpu: counted(4),
        }
    }

    /// Calls every replica for every channel.
    fn fill(&self, replicas: &[Arc<Latest>]) {
        self.bench.runtime.block_on(async {
            for channels in self.bench.channels.chunks(FILLED_AT_ONCE) {
                let queries: Vec<_> = channels.iter().map(|channel| query(channel.id())).collect();
                join_all(
                    replicas
                        .iter()
                        .map(|plaque| plaque.get_all(&queries, Duration::MAX)),
                )
                .await;
            }
        });
    }

    /// Calls the replicas for `lasts`. Returns the numbers of calls, of fresh hits and of stale hits.
    fn load(&self, replicas: &[Arc<Latest>], random: &mut Rng, lasts: Duration) -> [u32; 3] {
        let (mut calls, mut fresh, mut stale) = (0, 0, 0);
        let mut turns = replicas.iter().cycle();
        self.bench.runtime.block_on(async {
            // After a delay it catches up.
            let mut ticks = interval(Duration::from_millis(1));
            for _ in 0..lasts.as_millis() {
                ticks.tick().await;
                for (_, plaque) in (0..CALLS).zip(turns.by_ref()) {
                    let (plaque, query) = (Arc::clone(plaque), query(self.pick(random)));
                    let mut call =
                        Box::pin(async move { plaque.get(query).await.outcome.expect("an answer") });
                    calls += 1;
                    match (&mut call).now_or_never() {
                        Some(answer) if answer.stale => stale += 1,
                        Some(_answer) => fresh += 1,
                        None => drop(tokio::spawn(call)),
                    }
                }
            }
        });
        [calls, fresh, stale]
    }

    fn pick(&self, random: &mut Rng) -> ChannelId {
        let total = self.zipf[self.zipf.len() - 1];
        let chosen = random.f64() * total;
        let rank = self.zipf.partition_point(|sum| *sum <= chosen);
        self.bench.channels[rank.min(self.zipf.len() - 1)].id()
    }

    /// Lookups, upstream calls, failed or skipped store operations, CPU seconds of this process and of Redis.
    fn counts(&self, replicas: &[Arc<Latest>], upstream: &Fake) -> [f64; 5] {
        let mut text = String::new();
        for plaque in replicas {
            let mut numbers = Registry::default();
            plaque.register(&mut numbers);
            encode(&mut text, &numbers).expect("text");
        }
        let sum = |is: fn(&str) -> bool| {
            let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
            let numbers = lines
                .filter(|(name, _)| is(name))
                .map(|(_, number)| number.parse::<f64>());
            numbers.sum::<Result<f64, _>>().expect("numbers")
        };
        let failure = |name: &str| {
            name.starts_with("store_operation_duration_seconds_count")
                && (name.contains("\"error\"") || name.contains("\"skipped\""))
        };
        [
            sum(|name| name == "flights_started_total"),
            f64::from(upstream.calls()),
            sum(failure),
            cpu(),
            self.bench.redis_cpu(),
        ]
    }

    /// The expected upstream calls of `replicas` without a store in a minute: a channel's next one comes with the first call after it is no
    /// longer fresh.
    fn expected_upstream_calls(&self, replicas: u32) -> f64 {
        let total = self.zipf[self.zipf.len() - 1];
        let calls = f64::from(1_000 * CALLS) / f64::from(replicas);
        let rank = |rank| self.fresh_for.as_secs_f64() + f64::from(rank) * total / calls;
        f64::from(replicas)
            * (1..)
                .take(self.zipf.len())
                .map(|number| 60.0 / rank(number))
                .sum::<f64>()
    }
}
