//! `plaque serve`: from flags to a running server.

use std::{
    env, fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::ValueEnum;
use reqwest::Url;
use tokio::{net::TcpListener, runtime};

use super::{Outcome, values};
use crate::{
    config::{self, Config},
    latest::{Policy, Settings},
    server::{self, Drained},
    telemetry::{self, Format},
    youtube::{self, Pace, YouTube},
};

/// A channel that everybody can look up: Kurzgesagt.
const EXAMPLE: &str = "UCsXVk37bltHxD1rDPwtNM8Q";

/// Lookups spend their time waiting; a second thread keeps one that parses from delaying the others' timers.
pub(super) const UPSTREAM_THREADS: usize = 2;

/// Serves plaque.v1.LatestVideo over gRPC (HTTP/2 without TLS), until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to accept gRPC: an IP address and a port; port 0 takes a free one
    #[arg(long, env = "PLAQUE_LISTEN", default_value = "127.0.0.1:3779", value_name = "ADDRESS", value_parser = values::socket)]
    listen: SocketAddr,

    /// Where the feeds are; channel_id=… or playlist_id=… is appended
    #[arg(long, env = "PLAQUE_UPSTREAM", default_value = config::YOUTUBE, value_name = "URL", value_parser = config::upstream_url)]
    upstream: Url,

    /// The time that one lookup may take: waiting for its turn, connecting, and the whole answer
    #[arg(long, env = "PLAQUE_UPSTREAM_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = values::time_limit)]
    upstream_timeout: Duration,

    /// How many lookups may be under way at once
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_CONCURRENCY",
        default_value = "32",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_concurrency: NonZeroUsize,

    /// How many lookups may go out a second, on average; a second's worth may go out at once; 0 for no limit
    #[arg(long, env = "PLAQUE_UPSTREAM_RATE", default_value = "20", value_name = "COUNT", value_parser = values::rate)]
    upstream_rate: f64,

    /// How many lookups may wait for their turn; for one more the callers are told OVERLOADED
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_QUEUE",
        default_value = "1000",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_queue: NonZeroUsize,

    /// Certificates of authorities to trust beside the system's, in PEM: for an upstream with a private CA
    #[arg(long, env = "PLAQUE_UPSTREAM_CA", value_name = "FILE")]
    upstream_ca: Option<PathBuf>,

    /// How old an answer may be and still be given without a lookup
    #[arg(long, env = "PLAQUE_FRESH_FOR", default_value = "60s", value_name = "DURATION", value_parser = values::duration)]
    fresh_for: Duration,

    /// For how much longer it is given at once, while one lookup behind it brings a newer one
    #[arg(long, env = "PLAQUE_STALE_WHILE_REVALIDATE", default_value = "10m", value_name = "DURATION", value_parser = values::duration)]
    stale_while_revalidate: Duration,

    /// How old an answer may be and still be given when lookups fail
    #[arg(long, env = "PLAQUE_STALE_IF_ERROR", default_value = "7d", value_name = "DURATION", value_parser = values::duration)]
    stale_if_error: Duration,

    /// How long a channel that was never seen is remembered as not found; doubling with each repeat, to 15m
    #[arg(long, env = "PLAQUE_NEGATIVE_FOR", default_value = "30s", value_name = "DURATION", value_parser = values::duration)]
    negative_for: Duration,

    /// The memory for cached channels (about 3 KiB each); those least in demand make room
    #[arg(long, env = "PLAQUE_CACHE_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = values::bytes)]
    cache_bytes: u64,

    /// How many callers may wait for lookups at once; one more is told OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_WAITERS", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_waiters: NonZeroUsize,

    /// How often a watched channel is looked up, however many watch it
    #[arg(long, env = "PLAQUE_WATCH_EVERY", default_value = "60s", value_name = "DURATION", value_parser = values::time_limit)]
    watch_every: Duration,

    /// Serving threads [default: the number of cores]
    #[arg(long, env = "PLAQUE_WORKERS", value_name = "COUNT", value_parser = values::count)]
    workers: Option<NonZeroUsize>,

    /// How long a call may take, whatever deadline its caller sets or does not set; watches are open-ended
    #[arg(long, env = "PLAQUE_MAX_DEADLINE", default_value = "30s", value_name = "DURATION", value_parser = values::time_limit)]
    max_deadline: Duration,

    /// How long calls in progress may go on after SIGTERM or Ctrl-C; a second signal ends at once
    #[arg(long, env = "PLAQUE_DRAIN_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = values::duration)]
    drain_timeout: Duration,

    /// How the log is written, to standard error
    #[arg(
        long,
        env = "PLAQUE_LOG_FORMAT",
        default_value = "pretty",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// What is logged: off, error, warn, info, debug, trace, or directives such as plaque=debug,h2=warn [default: RUST_LOG, or info]
    #[arg(long, env = "PLAQUE_LOG", value_name = "FILTER", value_parser = directives)]
    log: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Pretty,
    /// One object a line
    Json,
}

fn directives(text: &str) -> Result<String, String> {
    match telemetry::filter(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!(
            "{error}; expected a level such as info, or directives such as plaque=debug"
        )),
    }
}

pub(super) fn run(args: Args) -> Outcome {
    start_log(args.log_format, args.log.as_deref())?;
    let config = Config {
        listen: args.listen,
        upstream: youtube::Settings {
            feeds: args.upstream,
            time_limit: args.upstream_timeout,
            pace: Pace {
                concurrency: args.upstream_concurrency,
                rate: (args.upstream_rate > 0.0).then_some(args.upstream_rate),
                queue: args.upstream_queue,
            },
            authorities: args.upstream_ca.map(|file| authorities(&file)).transpose()?,
        },
        latest: Settings {
            policy: Policy {
                fresh_for: args.fresh_for,
                stale_while_revalidate: args.stale_while_revalidate,
                stale_if_error: args.stale_if_error,
                negative_for: args.negative_for,
            },
            cache_bytes: args.cache_bytes,
            max_waiters: args.max_waiters.get(),
            watch_every: args.watch_every,
        },
        workers: args.workers.unwrap_or_else(cores),
        max_deadline: args.max_deadline,
        drain_timeout: args.drain_timeout,
    };
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(UPSTREAM_THREADS)
        .thread_name("upstream")
        .enable_all()
        .build()?;
    let drained = runtime.block_on(serve(&config));
    // Lookups whose callers are all gone need not be waited for.
    runtime.shutdown_background();
    match drained? {
        Drained { cut_off: 0 } => {
            tracing::info!("stopped; every call was finished");
            Ok(ExitCode::SUCCESS)
        }
        Drained { cut_off } => Err(format!(
            "{cut_off} connection(s) were still busy after --drain-timeout {} and were cut off",
            humantime::format_duration(config.drain_timeout)
        )
        .into()),
    }
}

async fn serve(config: &Config) -> Result<Drained, Box<dyn std::error::Error>> {
    let youtube = YouTube::new(config.upstream.clone())?;
    let listener = listen(config.listen).await?;
    // Before the address is told, so that whoever reads it can also stop us.
    let shutdown = shutdown_signal()?;
    announce(listener.local_addr()?)?;
    Ok(server::run(listener, config, Arc::new(youtube), shutdown).await?)
}

fn authorities(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("--upstream-ca: cannot read {}: {error}", file.display()))
}

/// Listens on `address`, or says what to do.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps another plaque; stop it, or choose another port with --listen"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege; choose another port with --listen"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; choose another with --listen, such as 127.0.0.1:3779"
            }
            _ => "choose another address with --listen",
        };
        format!("cannot listen on {address}: {error}; {advice}")
    })
}

/// Says where we listen, with a line to paste.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "plaque {} serves gRPC on {address}",
        env!("CARGO_PKG_VERSION")
    )?;
    writeln!(out, "try: {}", grpcurl(address, EXAMPLE))
}

/// A command that asks the server at `address` about `channel`.
pub(super) fn grpcurl(mut address: SocketAddr, channel: &str) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!(
        "grpcurl -plaintext -d '{{\"channel_id\":\"{channel}\"}}' {address} plaque.v1.LatestVideo/GetLatestVideo"
    )
}

/// One serving thread for each core.
pub(super) fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn start_log(format: LogFormat, flag: Option<&str>) -> Result<(), String> {
    let variable = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = match (flag, variable) {
        (Some(flag), _) => telemetry::filter(flag).map_err(|error| error.to_string()),
        (None, Some(variable)) => telemetry::filter(&variable)
            .map_err(|error| format!("invalid value {variable:?} of RUST_LOG: {error}")),
        (None, None) => telemetry::filter("info").map_err(|error| error.to_string()),
    }?;
    telemetry::start(
        match format {
            LogFormat::Pretty => Format::Pretty,
            LogFormat::Json => Format::Json,
        },
        filter,
    );
    Ok(())
}

/// Ends with the first SIGTERM or Ctrl-C. The second ends the process, whatever it does.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        let name = signals.next().await;
        tracing::info!("{name}: stopping");
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::warn!("{name} again: ending at once");
            process::exit(1);
        });
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // Without a handler the system ends the process on its own.
        let _ = tokio::signal::ctrl_c().await;
        "Ctrl-C"
    }
}
