//! `plaque demo`: shows coalescing on this machine, without a network.
//!
//! An origin in this process, the real server on a real port, and real gRPC clients. All figures are counted: callers by the clients,
//! lookups by the origin. Each act states its expected result, and the demo fails if one differs.

mod acts;
mod crowd;
mod report;

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use axum::{http::StatusCode, response::IntoResponse as _, response::Response};
use futures_util::future::BoxFuture;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{runtime, sync::oneshot, task::JoinHandle};

use self::{
    crowd::{Clients, Counts, Crowd},
    report::{Row, grouped},
};
use super::{
    Outcome,
    serve::{UPSTREAM_THREADS, cores, grpcurl, listen},
    values,
};
use crate::{
    config::{Config, Connections, Drain, HTTP_CONNECTIONS},
    grpc,
    latest::{Policy, Settings},
    origin::{self, Lookup, Origin},
    server::{self, Drained, Listeners, ServerError, Sources},
    telemetry,
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::Channel,
    youtube::{self, YouTube},
};

const CALLERS: usize = 1000;
/// The origin's latency, which a cold caller waits for.
const LATENCY: Duration = Duration::from_millis(200);
const IMPATIENCE: Duration = Duration::from_millis(40);
const PACE: Duration = Duration::from_millis(1);
/// The deadline of all other callers: never reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// `--upstream-timeout` of the demo's server: the time limit of the hanging lookup.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// Longer than the first pause after a failure, which is 5 s ± 20 %.
const BACKOFF: Duration = Duration::from_millis(6100);

/// The origin's channels, one for each act.
const COLD: &str = "UCthundering-herd-00000A";
const IMPATIENT: &str = "UCimpatient-callers-000A";
const SPELL: &str = "UCspell-of-404s-0000000A";
const BUG: &str = "UCbug-in-the-lookup-000A";
const HANGING: &str = "UChanging-upstream-0000A";

/// Shows what coalescing does, without a network: a simulated origin, the real server, real gRPC clients. Under 30 s.
///
/// Exits with 1 if any count differs from what is expected.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Keep the server running afterwards, and print grpcurl commands for it
    #[arg(long, env = "PLAQUE_KEEP_SERVING")]
    keep_serving: bool,

    /// The address for gRPC of the demo's server; port 0 takes a free one
    #[arg(long, env = "PLAQUE_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS", value_parser = values::socket)]
    listen: SocketAddr,
}

pub(super) fn run(args: Args) -> Outcome {
    // The log of the act with the panic would overwrite the progress bars.
    let silence = telemetry::Settings::log(telemetry::Format::Pretty, telemetry::filter("off")?);
    let _telemetry = telemetry::start(silence)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(UPSTREAM_THREADS)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(demo(args));
    runtime.shutdown_background();
    outcome
}

async fn demo(args: Args) -> Outcome {
    let stage = Stage::set_up(args.listen).await?;
    writeln!(
        io::stdout(),
        "plaque on {}, an upstream of made-up channels that takes {} for an answer, and {} callers at a time, on {} connections.\n\
         All figures are counted. Without plaque, each caller would send a lookup of its own.\n",
        stage.address,
        humantime::format_duration(LATENCY),
        grouped(CALLERS),
        stage.clients.connections(),
    )?;

    let began = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for act in [
        stage.thundering_herd().await?,
        stage.impatient_callers().await?,
        stage.spell_of_404s().await?,
        stage.bug_in_the_lookup().await?,
    ] {
        rows.extend(act);
    }
    let took = began.elapsed();

    let mut out = io::stdout().lock();
    writeln!(out, "{}", report::table(&rows))?;
    writeln!(out, "\n{}", report::histogram(&rows))?;
    let failed = rows.iter().filter(|row| !row.holds()).count();
    writeln!(
        out,
        "{} acts in {:.1} s: {}",
        rows.len(),
        took.as_secs_f64(),
        match failed {
            0 => "everything came out as it must".into(),
            failed => format!("{failed} did NOT come out as they must"),
        }
    )?;
    let (lookups, callers) = report::totals(&rows);
    writeln!(
        out,
        "{} lookup(s) for {} callers; without plaque {}",
        grouped(lookups),
        grouped(callers),
        grouped(callers)
    )?;
    if failed == 0 && !args.keep_serving {
        writeln!(out, "\n{}", next_steps())?;
    }
    drop(out);

    if args.keep_serving {
        stage.keep_serving().await?;
    }
    stage.tear_down().await?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the acts need: origin, server, clients.
struct Stage {
    origin: Origin,
    address: SocketAddr,
    clients: Clients,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<Drained, ServerError>>,
}

impl Stage {
    async fn set_up(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let origin = Origin::start(answer).await?;
        let config = Config {
            listen: address,
            upstream: youtube::Settings {
                time_limit: TIME_LIMIT,
                ..youtube::Settings::new(origin.url().clone())
            },
            latest: Settings {
                policy: Policy {
                    fresh_for: Duration::from_mins(1),
                    stale_while_revalidate: Duration::from_mins(10),
                    stale_if_error: Duration::from_hours(1),
                    negative_for: Duration::from_secs(30),
                    min_refetch: Duration::ZERO,
                },
                cache_bytes: 64 << 20,
                max_waiters: 100_000,
                watch_every: Duration::from_mins(1),
                watch_at_most: Duration::from_hours(1),
                max_watched: 100_000,
                canary: None,
            },
            calls: grpc::Limits::default(),
            caller_header: None,
            connections: Connections::default(),
            http_connections: HTTP_CONNECTIONS,
            http_origins: None,
            admin_names: vec![],
            workers: cores(),
            grpc_web: None,
            drain: Drain {
                timeout: Duration::from_secs(1),
                ..Drain::default()
            },
            shown: vec![],
        };
        let sources = Sources::from(Buggy(YouTube::new(config.upstream.clone())?));
        let listeners = Listeners {
            grpc: listen(config.listen, "--listen").await?,
            http: None,
            tls: None,
            admin: None,
        };
        let address = listeners.grpc.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        // Owns the server. Ended by `stop`.
        let server = tokio::spawn(async move {
            server::run(listeners, &config, sources, async {
                // Also stops if the stage is dropped.
                let _ = stopped.await;
            })
            .await
        });
        let clients = Clients::connect(address).await?;
        Ok(Self {
            origin,
            address,
            clients,
            stop,
            server,
        })
    }

    fn crowd(channel: &str) -> Result<Crowd, Box<dyn Error>> {
        Ok(Crowd {
            channel: channel.parse()?,
            callers: CALLERS,
            deadline: PATIENCE,
            pace: Duration::ZERO,
            max_age: None,
        })
    }

    /// Sends a crowd, and counts the outcomes.
    async fn send(&self, title: &str, crowd: Crowd) -> Result<Counts, Box<dyn Error>> {
        // Hidden if standard error is not a terminal.
        let bar = ProgressBar::new(crowd.callers as u64)
            .with_style(ProgressStyle::with_template("{msg:32} [{bar:30}] {pos}/{len}")?)
            .with_message(title.to_owned());
        let before = self.origin.lookups(crowd.channel);
        let mut counts = crowd.call(&self.clients, &bar).await;
        counts.lookups = self.origin.lookups(crowd.channel) - before;
        bar.finish_and_clear();
        Ok(counts)
    }

    async fn keep_serving(&self) -> Result<(), Box<dyn Error>> {
        let mut out = io::stdout().lock();
        writeln!(out, "\nStill serving, until Ctrl-C. Try:\n")?;
        let get = format!("{} get --server http://{} {COLD}", program_name(), self.address);
        for (line, what) in [
            (get, "an answer"),
            (grpcurl(self.address, COLD), "the same, with its freshness"),
            (grpcurl(self.address, HANGING), "a timeout"),
            (grpcurl(self.address, "UC-never-heard-of-0000000"), "a bad ID"),
            (
                format!(
                    "grpcurl -plaintext {} describe plaque.v1.LatestVideo",
                    self.address
                ),
                "the API, with its comments",
            ),
        ] {
            writeln!(out, "  # {what}\n  {line}")?;
        }
        drop(out);
        Ok(tokio::signal::ctrl_c().await?)
    }

    async fn tear_down(self) -> Result<(), Box<dyn Error>> {
        drop(self.clients);
        // Fails if the server has ended already, which the next line reports.
        let _ = self.stop.send(());
        self.server.await??;
        Ok(())
    }
}

/// What to try after the demo.
fn next_steps() -> String {
    let program = program_name();
    format!(
        "Next:\n\n  \
         # this server and its made-up channels, until Ctrl-C, with commands to try\n  {program} demo --keep-serving\n  \
         # the real one; its status page is http://127.0.0.1:3780/\n  {program} serve\n  \
         # or without a server: the newest upload of a channel on YouTube\n  {program} get --direct @youtube"
    )
}

/// How to start this program from this shell and folder.
fn program_name() -> String {
    let first = std::env::args().next().unwrap_or_default();
    if !first.is_empty() && !first.contains('/') {
        return first; // found in PATH
    }
    let path = std::env::current_exe().unwrap_or_else(|_| first.into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}

async fn answer(lookup: Lookup) -> Response {
    tokio::time::sleep(LATENCY).await;
    match (lookup.channel.as_str(), lookup.number) {
        (HANGING, _) => std::future::pending().await,
        (SPELL, 2..) => (StatusCode::NOT_FOUND, "404. That's an error.").into_response(),
        (channel, _) => {
            let uploads = origin::uploads(SystemTime::now(), 15);
            origin::feed(channel, "A made-up channel", &uploads)
        }
    }
}

/// The real adapter with a bug: the first response for one channel makes it panic.
struct Buggy(YouTube);

impl Upstream for Buggy {
    fn look_up(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        use std::sync::atomic::{AtomicBool, Ordering};
        static FIXED: AtomicBool = AtomicBool::new(false);
        Box::pin(async move {
            let found = self.0.look_up(feed, request).await;
            assert!(
                feed.channel.as_str() != BUG || FIXED.swap(true, Ordering::Relaxed),
                "a bug, put here by the demo"
            );
            found
        })
    }

    fn time_limit(&self) -> Duration {
        self.0.time_limit()
    }
}
