//! What criterion's own sampling does not fit, as tables.

use std::{fmt::Write as _, time::Duration};

use tokio::runtime::{Handle, Runtime};

use super::{
    children::{CONFIGURED_ALIKE, ONLY_WAITS, bytes_a_waiter, instructions_a_hit},
    crowd::{Toll, Wave, Waves, panics, storm},
    peers::{Bare, Coalesce, Foyer, Moka, Peer, QuickCache, SpawnedMoka, Uniflight},
    table::table,
};

type Report = fn(&Runtime) -> String;

/// The reports, by name.
pub const ALL: [(&str, Report); 4] = [
    ("waves", waves),
    ("waiters", waiters),
    ("instructions", instructions),
    ("faults", faults),
];

/// Rounds of waves. Each has every peer in it, so that what else the machine does meanwhile falls on all of them.
const ROUNDS: usize = 5;

/// Callers in a wave, and waves of one peer in a round: so many that there is a 99th percentile to speak of.
const WAVES: [(usize, usize); 3] = [(1, 300), (100, 100), (100_000, 1)];

/// A peer's waves.
struct Contender {
    name: &'static str,
    next: Box<dyn FnMut(usize) -> Wave>,
    /// Of each round.
    p99: Vec<Duration>,
    last: Vec<Duration>,
}

fn contender<P: Peer>(runtime: &Handle) -> Contender {
    let mut waves = Waves::<P>::new(runtime.clone());
    Contender {
        name: P::NAME,
        next: Box::new(move |callers| waves.next(callers)),
        p99: Vec::new(),
        last: Vec::new(),
    }
}

impl Contender {
    fn round(&mut self, callers: usize, waves: usize) {
        let waves: Vec<_> = (0..waves).map(|_| (self.next)(callers)).collect();
        let last = waves.iter().map(Wave::last).collect();
        let mut all: Vec<_> = waves.into_iter().flat_map(|wave| wave.0).collect();
        all.sort_unstable();
        self.p99.push(Wave(all).p99());
        self.last.push(median(last));
    }

    /// The 99th percentile beside that of `other`, round by round.
    fn p99_beside(&self, other: &Self) -> String {
        let ratios = self.p99.iter().zip(&other.p99);
        let ratios: Vec<_> = ratios.map(|(mine, its)| mine.div_duration_f64(*its)).collect();
        let mut sorted = ratios;
        sorted.sort_by(f64::total_cmp);
        format!("{:.2}", sorted[sorted.len() / 2])
    }
}

fn waves(runtime: &Runtime) -> String {
    let mut report = String::new();
    for (callers, waves) in WAVES {
        let runtime = runtime.handle();
        let mut contenders = [
            contender::<Bare>(runtime),
            contender::<Coalesce>(runtime),
            contender::<Moka>(runtime),
            contender::<SpawnedMoka>(runtime),
            contender::<Foyer>(runtime),
            contender::<QuickCache>(runtime),
            contender::<Uniflight>(runtime),
        ];
        for contender in &mut contenders {
            // Not counted: whoever is first pays for the pages that the others find mapped.
            (contender.next)(callers);
        }
        for round in 0..ROUNDS {
            for turn in 0..contenders.len() {
                // Each round begins with another one.
                let turn = (turn + round) % contenders.len();
                contenders[turn].round(callers, waves);
            }
        }
        let mut table = table(&["", "last", "p99", "p99 / bare", "p99 / moka"]);
        let [bare, _coalesce, moka, ..] = &contenders;
        for contender in &contenders {
            table.add_row([
                contender.name.to_owned(),
                spread(&contender.last),
                spread(&contender.p99),
                contender.p99_beside(bare),
                contender.p99_beside(moka),
            ]);
        }
        let _ = writeln!(
            report,
            "waves of {callers}: from the lookup's completion until a caller has its value; median (least to most) of {ROUNDS} rounds\n{table}\n"
        );
    }
    report
}

fn waiters(_runtime: &Runtime) -> String {
    let mut table = table(&["", "bytes a waiter"]);
    let peers = [
        Bare::NAME,
        ONLY_WAITS,
        Coalesce::NAME,
        Moka::NAME,
        SpawnedMoka::NAME,
        Foyer::NAME,
        QuickCache::NAME,
        Uniflight::NAME,
    ];
    for peer in peers {
        table.add_row([peer.to_owned(), bytes_a_waiter(peer)]);
    }
    format!("resident memory of a waiter and its task, 100,000 on one key\n{table}")
}

fn instructions(_runtime: &Runtime) -> String {
    let caches = [Coalesce::NAME, Moka::NAME, CONFIGURED_ALIKE];
    let mut counts = caches.map(|_cache| Vec::new());
    let mut tool = "";
    for _ in 0..ROUNDS {
        for (cache, counts) in caches.iter().zip(&mut counts) {
            let Some((count, counted_by)) = instructions_a_hit(cache) else {
                return "instructions a hit: neither perf nor valgrind counts them here".to_owned();
            };
            counts.push(count);
            tool = counted_by;
        }
    }
    let mut table = table(&["", "instructions a hit", "coalesce / it"]);
    let medians = counts.each_mut().map(|counts| {
        counts.sort_unstable();
        counts[counts.len() / 2]
    });
    for ((cache, counts), median) in caches.iter().zip(&counts).zip(medians) {
        // In thousandths, rounded up.
        let ratio = (medians[0] * 1000).div_ceil(median.max(1));
        let (least, most) = (counts[0], counts[counts.len() - 1]);
        table.add_row([
            (*cache).to_owned(),
            format!("{median} ({least} to {most})"),
            format!("{}.{:03}", ratio / 1000, ratio % 1000),
        ]);
    }
    format!("instructions of a hit, counted by {tool}; median (least to most) of {ROUNDS} rounds\n{table}")
}

fn faults(runtime: &Runtime) -> String {
    let storms = [
        runtime.block_on(storm::<Coalesce>()),
        runtime.block_on(storm::<Moka>()),
        runtime.block_on(storm::<SpawnedMoka>()),
        runtime.block_on(storm::<Foyer>()),
        runtime.block_on(storm::<QuickCache>()),
        runtime.block_on(storm::<Uniflight>()),
    ];
    // They are many, and meant.
    std::panic::set_hook(Box::new(|_panic| {}));
    let panics = [
        (Coalesce::NAME, runtime.block_on(panics::<Coalesce>())),
        (Moka::NAME, runtime.block_on(panics::<Moka>())),
        (SpawnedMoka::NAME, runtime.block_on(panics::<SpawnedMoka>())),
        (Foyer::NAME, runtime.block_on(panics::<Foyer>())),
        (QuickCache::NAME, runtime.block_on(panics::<QuickCache>())),
        (Uniflight::NAME, runtime.block_on(panics::<Uniflight>())),
    ];
    let _ = std::panic::take_hook();

    let mut table = table(&[
        "",
        "storm: upstream calls",
        "callers answered",
        "panic: upstream calls",
        "callers told",
        "callers that panic",
        "callers left waiting",
    ]);
    for (storm, (name, panic)) in storms.iter().zip(&panics) {
        let Toll { calls, answered, .. } = storm;
        let left = 11 - panic.answered - panic.told - panic.panicked;
        let counts = [*calls, *answered, panic.calls, panic.told, panic.panicked, left];
        table.add_row(
            [(*name).to_owned()]
                .into_iter()
                .chain(counts.map(|count| count.to_string())),
        );
    }
    format!(
        "storm: 400 callers, one every 5 ms, each giving up after 40 ms; the lookup takes 100 ms\n\
         panic: the lookup panics with 10 callers waiting besides the one who began it\n{table}"
    )
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}

fn spread(durations: &[Duration]) -> String {
    let least = durations.iter().min().copied().unwrap_or_default();
    let most = durations.iter().max().copied().unwrap_or_default();
    format!("{:.1?} ({least:.1?} to {most:.1?})", median(durations.to_vec()))
}
