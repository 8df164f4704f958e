//! The cost of lookups that hit the store, and of those that miss it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use plaque::{
    latest::{Latest, Policy, Settings},
    store::Store,
    video::{Channel, ChannelId},
};
use tokio::runtime::Builder;

use super::{Bench, cpu, figures::spread, query, table::table};

/// Rounds. Each measures all of [`TIERS`], so that other load on the machine affects them equally.
const ROUNDS: usize = 7;

/// Concurrent callers: one, for latency, and many, which share wake-ups and round trips.
const AT_ONCE: [usize; 2] = [1, 32];

/// Channels looked up in each round.
const CHANNELS: usize = 4_000;

/// The second tier, and what the first and the second call for a channel are then.
const TIERS: [(Tier, [&str; 2]); 3] = [
    (Tier::None, ["miss, without a store", "hit in memory"]),
    (Tier::File, ["miss, with a file", "hit in the file"]),
    (Tier::Redis, ["miss, with Redis", "hit in Redis"]),
];

#[derive(Clone, Copy)]
enum Tier {
    None,
    File,
    Redis,
}

/// The cost of calls for all channels, in microseconds per call.
struct Asked {
    median: f64,
    p99: f64,
    /// The CPU time of all threads of the process: callers, lookups, the store.
    cpu: f64,
    redis_cpu: f64,
}

pub fn report(bench: &Bench) -> String {
    let tables = AT_ONCE.map(|at_once| {
        let ids = bench.channels.iter().take(CHANNELS).map(Channel::id).collect();
        Course { bench, ids, at_once }.report()
    });
    tables.join("\n\n")
}

/// Rounds with `at_once` concurrent callers.
struct Course<'a> {
    bench: &'a Bench,
    ids: Vec<ChannelId>,
    at_once: usize,
}

impl Course<'_> {
    fn report(&self) -> String {
        let rounds = if self.bench.quick { 3 } else { ROUNDS };
        let mut asked: [[Vec<Asked>; 2]; 3] = Default::default();
        // The first round, in which pages are mapped, is not counted.
        for round in 0..=rounds {
            for turn in 0..TIERS.len() {
                // Each round starts with a different one.
                let turn = (turn + round) % TIERS.len();
                let name = format!("cost-{}-{round}", self.at_once);
                let both = self.ask_twice(TIERS[turn].0, &name);
                if round > 0 {
                    for (all, one) in asked[turn].iter_mut().zip(both) {
                        all.push(one);
                    }
                }
            }
        }
        let mut table = table(&[
            "",
            "median µs",
            "/ miss without",
            "p99 µs",
            "CPU µs",
            "/ miss without",
            "Redis's CPU µs",
        ]);
        let [[miss, _hit], ..] = &asked;
        for ((tier, names), both) in TIERS.iter().zip(&asked) {
            for (name, asked) in names.iter().zip(both) {
                let figure = |of: fn(&Asked) -> f64| spread(asked.iter().map(of).collect());
                let ratio = |of: fn(&Asked) -> f64| {
                    let rounds = asked.iter().zip(miss);
                    spread(rounds.map(|(one, miss)| of(one) / of(miss)).collect())
                };
                table.add_row([
                    (*name).to_owned(),
                    figure(|asked| asked.median),
                    ratio(|asked| asked.median),
                    figure(|asked| asked.p99),
                    figure(|asked| asked.cpu),
                    ratio(|asked| asked.cpu),
                    match tier {
                        Tier::Redis => figure(|asked| asked.redis_cpu),
                        Tier::None | Tier::File => String::new(),
                    },
                ]);
            }
        }
        format!(
            "{} channels, callers at once: {}; median (least to most) of {rounds} rounds\n{table}",
            self.ids.len(),
            self.at_once,
        )
    }

    fn count(&self) -> u32 {
        u32::try_from(self.ids.len()).expect("some thousands")
    }

    /// Calls for all channels with an empty cache, and again: with the same cache, or with a store and a new cache.
    fn ask_twice(&self, tier: Tier, name: &str) -> [Asked; 2] {
        let upstream = self.bench.upstream(Duration::ZERO);
        let latest = || {
            let store: Option<Arc<dyn Store>> = match tier {
                Tier::None => None,
                Tier::File => Some(self.bench.file(name)),
                Tier::Redis => Some(self.bench.redis(name)),
            };
            let handle = self.bench.runtime.handle().clone();
            Latest::new(Arc::clone(&upstream) as _, store, settings(), handle)
        };
        let mut plaque = latest();
        let first = self.ask(&plaque);
        if !matches!(tier, Tier::None) {
            plaque = latest();
        }
        let again = self.ask(&plaque);
        assert_eq!(
            upstream.calls(),
            self.count(),
            "lookups; more if the store is in trouble"
        );
        [first, again]
    }

    /// Calls for all channels. The CPU time includes pending writes to the store.
    fn ask(&self, plaque: &Latest) -> Asked {
        // Like a serving thread's.
        let runtime = Builder::new_current_thread().build();
        let runtime = runtime.expect("the machine has room for it");
        let (cpu_before, redis_before) = (cpu(), self.bench.redis_cpu());
        let mut took = runtime.block_on(async {
            let callers = (0..self.at_once).map(|caller| async move {
                let ids = self.ids.iter().skip(caller).step_by(self.at_once);
                let mut took = Vec::with_capacity(ids.len());
                for id in ids {
                    let begun = Instant::now();
                    let reply = plaque.get(query(*id)).await;
                    took.push(begun.elapsed());
                    reply.outcome.expect("an answer");
                }
                took
            });
            join_all(callers).await.concat()
        });
        self.bench
            .runtime
            .block_on(plaque.close_store(Duration::from_mins(1)));
        let each = |seconds: f64| seconds * 1e6 / f64::from(self.count());
        let (cpu, redis_cpu) = (cpu() - cpu_before, self.bench.redis_cpu() - redis_before);
        took.sort_unstable();
        let micros = |took: Duration| took.div_duration_f64(Duration::from_micros(1));
        Asked {
            median: micros(took[took.len() / 2]),
            p99: micros(took[took.len() * 99 / 100]),
            cpu: each(cpu),
            redis_cpu: each(redis_cpu),
        }
    }
}

/// Settings with which entries stay fresh, and none is evicted.
fn settings() -> Settings {
    let long = Duration::from_hours(1);
    Settings {
        policy: Policy {
            fresh_for: long,
            stale_while_revalidate: long,
            stale_if_error: long,
            negative_for: long,
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 256 << 20,
        max_waiters: 1_000,
        watch_every: long,
        watch_at_most: long,
        max_watched: 100_000,
        canary: None,
    }
}
