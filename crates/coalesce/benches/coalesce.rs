//! `coalesce` beside other caches, on the same work in the same run. The repository's `benches/REPORT.md` says how to read it.
//!
//! `cargo bench -p coalesce-benches --bench coalesce -- PART` runs one part: `hit`, `miss`, `waves`, `waiters`, `instructions` or `faults`.

#[path = "coalesce/children.rs"]
mod children;
#[path = "coalesce/crowd.rs"]
mod crowd;
#[path = "../../../benches/common/instructions.rs"]
mod instructions;
#[path = "coalesce/peers.rs"]
mod peers;
#[path = "coalesce/report.rs"]
mod report;
#[path = "../../../benches/common/resident.rs"]
mod resident;
#[path = "../../../benches/common/table.rs"]
mod table;

use std::{
    env,
    io::{self, Write as _},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion};
use mimalloc::MiMalloc;
use tokio::runtime::{Builder, Runtime};

use self::{
    children::{current_thread, filled},
    crowd::Waves,
    peers::{Bare, Cached, Coalesce, Foyer, Moka, Peer, QuickCache, SpawnedMoka, Uniflight},
};

/// That of plaque, for which this was made.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> io::Result<()> {
    if let Some(outcome) = children::run() {
        return write!(io::stdout(), "{outcome}");
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let runtime = two_workers();
    hits(&mut criterion);
    misses(&mut criterion, &runtime);
    criterion.final_summary();

    let part = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, report) in report::ALL {
        if part.as_deref().is_none_or(|part| part == name) {
            writeln!(io::stdout(), "{}\n", report(&runtime))?;
        }
    }
    Ok(())
}

/// Two, whatever the machine has: so that runs on different machines have something in common.
fn two_workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(2).enable_all();
    builder.build().expect("the machine has room for it")
}

/// One key, which is there.
fn hits(criterion: &mut Criterion) {
    hit::<Coalesce>(criterion);
    hit::<Moka>(criterion);
    hit::<Foyer>(criterion);
    hit::<QuickCache>(criterion);
}

fn hit<P: Cached>(criterion: &mut Criterion) {
    let runtime = current_thread();
    let cache = P::new(runtime.handle());
    let key = runtime.block_on(filled(&cache));
    criterion.bench_function(&format!("hit/{}", P::NAME), |bencher| {
        bencher.to_async(&runtime).iter(|| cache.cached(&key));
    });
}

/// From the lookup's completion until the last caller has its value.
fn misses(criterion: &mut Criterion, runtime: &Runtime) {
    for callers in [1, 100] {
        miss::<Bare>(criterion, runtime, callers);
        miss::<Coalesce>(criterion, runtime, callers);
        miss::<Moka>(criterion, runtime, callers);
        miss::<SpawnedMoka>(criterion, runtime, callers);
        miss::<Foyer>(criterion, runtime, callers);
        miss::<QuickCache>(criterion, runtime, callers);
        miss::<Uniflight>(criterion, runtime, callers);
    }
}

fn miss<P: Peer>(criterion: &mut Criterion, runtime: &Runtime, callers: usize) {
    let mut group = criterion.benchmark_group(format!("miss/{callers}"));
    // What is measured is a small part of a wave: its callers have to gather first.
    group.sample_size(20);
    let mut waves = Waves::<P>::new(runtime.handle().clone());
    group.bench_function(BenchmarkId::from_parameter(P::NAME), |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| waves.next(callers).last()).sum());
    });
    group.finish();
}
