//! The cost of a store, and the lookups that replicas save by sharing one: `just bench-store`. `benches/REPORT.md` explains the output.
//!
//! `cargo bench -p benches --bench store -- PART` runs one part: `cost`, `replicas` or `writes`; `--quick` takes seconds, for a try. Needs redis-server.

#[path = "store/cost.rs"]
mod cost;
#[path = "common/feeds.rs"]
mod feeds;
#[path = "store/figures.rs"]
mod figures;
#[path = "store/replicas.rs"]
mod replicas;
#[expect(
    dead_code,
    reason = "of what tests do with a server, a benchmark needs little"
)]
#[path = "../tests/redis/server.rs"]
mod server;
#[path = "common/table.rs"]
mod table;
#[path = "store/writes.rs"]
mod writes;

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use mimalloc::MiMalloc;
use plaque::{
    latest::Query,
    store::{
        Store,
        file::{Ages, File},
        redis::{Redis, Settings},
    },
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::{Channel, ChannelId},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

use self::server::Server;

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The same as `plaque serve` uses for lookups.
const LOOKUP_THREADS: usize = 2;

/// The maximum size of a file, which is never reached here.
const FILE_BYTES: u64 = 1 << 30;

/// The time limit of an operation: so long that a stall of the machine does not disable the store.
const BUDGET: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    // Failures of a store are logged.
    let log = tracing_subscriber::fmt().with_writer(io::stderr);
    log.with_max_level(tracing::Level::WARN).init();
    let arguments: Vec<_> = env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let part = arguments.iter().find(|argument| !argument.starts_with('-'));
    let bench = Bench::start(quick)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n", bench.machine())?;
    for (name, report) in [
        ("cost", cost::report as fn(&Bench) -> String),
        ("replicas", replicas::report),
        ("writes", writes::report),
    ] {
        if part.is_none_or(|part| part == name) {
            writeln!(out, "{}\n", report(&bench))?;
        }
    }
    fs::remove_dir_all(&bench.folder)
}

/// What all parts share.
struct Bench {
    quick: bool,
    server: Server,
    /// For files, on the program's disk.
    folder: PathBuf,
    /// Runs lookups and stores, as in `plaque serve`.
    runtime: Runtime,
    channels: Arc<[Channel]>,
}

impl Bench {
    fn start(quick: bool) -> io::Result<Self> {
        let server = Server::start(&[]);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-store");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(LOOKUP_THREADS)
            .enable_all()
            .build()?;
        let count = if quick { 1_000 } else { replicas::CHANNELS };
        Ok(Self {
            quick,
            server,
            folder,
            runtime,
            channels: (0..count).map(feeds::channel).collect(),
        })
    }

    fn upstream(&self, takes: Duration) -> Arc<Fake> {
        Arc::new(Fake {
            channels: Arc::clone(&self.channels),
            takes,
            calls: AtomicU32::new(0),
        })
    }

    /// Opens the file `name`, with its previous contents.
    fn file(&self, name: &str) -> Arc<dyn Store> {
        let file = File::open(
            &self.folder.join(name),
            FILE_BYTES,
            BUDGET,
            Ages::new(Duration::ZERO),
        );
        Arc::new(file.expect("a file that can be written"))
    }

    /// A store in Redis, shared by all that have the same `name`.
    fn redis(&self, name: &str) -> Arc<dyn Store> {
        let settings = Settings {
            prefix: name.parse().expect("a prefix"),
            budget: BUDGET,
            ..Settings::new(self.server.url().parse().expect("an address"))
        };
        Arc::new(self.runtime.block_on(Redis::start(settings)))
    }

    /// The CPU time of Redis in seconds.
    fn redis_cpu(&self) -> f64 {
        let fields = ["used_cpu_user", "used_cpu_sys"].map(|field| self.info("cpu", field));
        let seconds = fields.iter().map(|seconds| seconds.parse::<f64>());
        seconds.sum::<Result<f64, _>>().expect("numbers")
    }

    /// A field of Redis' INFO.
    fn info(&self, section: &str, field: &str) -> String {
        let info: String = self.server.command(&["INFO", section]);
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| *name == field).expect("it tells");
        value.into()
    }

    /// Describes the measurement: time, machine, versions.
    fn machine(&self) -> String {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let rustc = Command::new("rustc").arg("--version").output();
        format!(
            "{}; {} cores ({}); Linux {}; plaque {}; {}; redis-server {}; load average {} at the start.",
            humantime::format_rfc3339_seconds(SystemTime::now()),
            available_parallelism().map_or(0, usize::from),
            model.map_or("unknown", |(_, model)| model),
            read("/proc/sys/kernel/osrelease").trim(),
            env!("CARGO_PKG_VERSION"),
            rustc.map_or_else(
                |_| "rustc unknown".into(),
                |rustc| String::from_utf8_lossy(&rustc.stdout).trim().to_owned()
            ),
            self.info("server", "redis_version"),
            read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        )
    }
}

/// An upstream that knows all channels, counts, and takes its time.
struct Fake {
    channels: Arc<[Channel]>,
    takes: Duration,
    calls: AtomicU32,
}

impl Fake {
    fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }
}

impl Upstream for Fake {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Relaxed);
            if !self.takes.is_zero() {
                sleep(self.takes).await;
            }
            Ok(self.channels[number(feed.channel)].clone())
        })
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// Of a channel, the number that it was made of.
fn number(channel: ChannelId) -> usize {
    let digits = &channel.as_str()[2..ChannelId::LEN - 1];
    digits.parse().expect("made of a number")
}

fn query(channel: ChannelId) -> Query {
    Query {
        channel,
        kind: None,
        max_age: None,
    }
}

/// The processor's time that this process has had, in seconds.
fn cpu() -> f64 {
    let time: Result<Duration, _> = clock_gettime(ClockId::ProcessCPUTime).try_into();
    time.expect("not less than none").as_secs_f64()
}
