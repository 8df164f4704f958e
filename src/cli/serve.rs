//! `plaque serve`: turns flags into a running server.

mod args;
mod log_flags;
mod signals;

use std::{
    env,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
};

use self::log_flags::LogFormat;
pub(super) use self::{
    args::{Args, cores},
    signals::Signals,
};
use super::{InvalidFlags, Outcome, flags, variables};
use crate::{
    admin,
    config::Config,
    latest::Policy,
    net::tls::Tls,
    server::{self, Drained, Listeners, Sources},
    store::{Store, StoredUnits},
    telemetry::{self, Format, Telemetry},
};

/// Open files apart from connections and lookups: listeners, event loops, connections of the admin port and for probes, and as many of
/// these that are being closed.
const OTHER_FILES: usize = 32 + 2 * (admin::CONNECTIONS + server::PROBE_CONNECTIONS);

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3780);

/// Connections that the system queues until they are accepted: tokio's default.
const BACKLOG: u32 = 1024;

/// A channel for examples: Kurzgesagt.
const EXAMPLE: &str = "UCsXVk37bltHxD1rDPwtNM8Q";

/// Lookups mostly wait; a second thread keeps one that parses from delaying the others' timers.
pub(super) const UPSTREAM_THREADS: usize = 2;

/// How long to wait for aborted lookups to end. A thread may be parsing a feed, or blocked in the system's resolver.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args) -> Outcome {
    let telemetry = start_telemetry(args)?;
    for unknown in variables::unknown(&flags::program()) {
        tracing::warn!("{unknown}");
    }
    let mut config = args.config().map_err(InvalidFlags)?;
    let files = args.tls_files();
    let tls = files.map(Tls::load).transpose();
    let tls =
        tls.map_err(|error| InvalidFlags(format!("--tls-cert, --tls-key, --tls-client-ca: {error}")))?;
    reserve_files_for_lookups(&mut config, args);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(UPSTREAM_THREADS)
        .thread_name("upstream")
        .enable_all()
        .build()?;
    let drained = runtime.block_on(serve(&config, args, tls.map(Arc::new)));
    // Lookups without callers are not waited for. They end here, and so do their spans.
    runtime.shutdown_timeout(TEARDOWN_LIMIT);
    drop(telemetry);
    match drained? {
        Drained { cut_off: 0 } => {
            tracing::info!("stopped; every call was finished");
            Ok(ExitCode::SUCCESS)
        }
        Drained { cut_off } => Err(format!(
            "{cut_off} call(s) were still in progress after --drain-timeout {} and were cut off",
            humantime::format_duration(config.drain.timeout)
        )
        .into()),
    }
}

async fn serve(
    config: &Config,
    args: &Args,
    tls: Option<Arc<Tls>>,
) -> Result<Drained, Box<dyn std::error::Error>> {
    let units = Arc::<StoredUnits>::default();
    // Before ports are bound and the store is opened, which a mistake in the settings should not wait for.
    let sources = args.sources.open(&config.upstream, &units)?;
    let grpc = Bound::new(config.listen, "--listen")?;
    let http = args
        .http_listen
        .map(|address| Bound::new(address, "--http-listen"));
    let http = http.transpose()?;
    let admin = listen_for_admins(args.admin_listen).await?;
    // Before the address is printed, so that whoever reads it can stop the server.
    let mut shutdown = pin!(signals::shutdown()?);
    signals::reload_certificates(tls.clone())?;
    let store = tokio::select! {
        store = open_store(args, &units, config.latest.policy, admin.as_ref()) => store?,
        // No call is in progress, and opening a file makes no change that a restart could not repeat.
        () = &mut shutdown => return Ok(Drained { cut_off: 0 }),
    };
    let listeners = Listeners {
        grpc: grpc.listen()?,
        http: http.map(Bound::listen).transpose()?,
        admin,
        tls,
    };
    let sources = Sources { store, ..sources };
    announce(&listeners, args, config.latest.cache_bytes)?;
    Ok(server::run(listeners, config, sources, shutdown).await?)
}

/// Opens the store, if one is configured. Meanwhile the port of `admin` reports that plaque is alive.
async fn open_store(
    args: &Args,
    units: &StoredUnits,
    policy: Policy,
    admin: Option<&TcpListener>,
) -> Result<Option<Arc<dyn Store>>, Box<dyn std::error::Error>> {
    let open = args.sources.open_store(units, policy);
    let opened = match admin.filter(|_| args.sources.store.is_some()) {
        None => open.await,
        Some(admin) => {
            let address = admin.local_addr()?;
            tracing::info!(
                "opening the store; until then http://{address}/readyz says that plaque is not ready"
            );
            admin::while_starting(admin, open).await
        }
    };
    Ok(opened?)
}

/// Raises the soft limit of open files, and limits connections so that enough files are left for lookups.
fn reserve_files_for_lookups(config: &mut Config, args: &Args) {
    let may_be_open = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot tell how many files may be open");
            return;
        }
    };
    // Connections that are being closed may be open for another moment.
    let http = if args.http_listen.is_some() {
        2 * config.http_connections.get()
    } else {
        0
    };
    let lookups = args.sources.lookups(&config.upstream);
    let others = OTHER_FILES + http + lookups;
    let left = may_be_open
        .saturating_sub(others)
        .try_into()
        .unwrap_or(NonZeroUsize::MIN);
    if left < config.connections.at_once {
        tracing::warn!(
            "--max-connections is {left}, not {}: {may_be_open} files may be open (ulimit -n), and lookups and \
             the rest need {others}",
            config.connections.at_once
        );
        config.connections.at_once = left;
    }
}

/// Listens on `address`, which was given by `flag`. The error has advice.
pub(super) async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, String> {
    Bound::new(address, flag)?.listen()
}

/// An address that is bound, but does not accept connections yet.
struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
    flag: &'static str,
}

impl Bound {
    /// Binds `address`, which was given by `flag`. The error has advice.
    fn new(address: SocketAddr, flag: &'static str) -> Result<Self, String> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // So that a restart need not wait until old connections time out. On other systems it means something else.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = bind().map_err(|error| cannot_listen(address, flag, &error))?;
        Ok(Self {
            socket,
            address,
            flag,
        })
    }

    fn listen(self) -> Result<TcpListener, String> {
        let Self {
            socket,
            address,
            flag,
        } = self;
        let listening = socket.listen(BACKLOG);
        listening.map_err(|error| cannot_listen(address, flag, &error))
    }
}

fn cannot_listen(address: SocketAddr, flag: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps another plaque; stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose one such as 127.0.0.1",
        _ => "choose another address",
    };
    format!("cannot listen on {address}: {error}; {advice} with {flag}")
}

/// Listens for the admin port. If the default address is taken, plaque runs without.
async fn listen_for_admins(address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    let listener = listen(address.unwrap_or(ADMIN), "--admin-listen").await;
    match listener {
        Err(error) if address.is_none() => {
            tracing::warn!("no probes and metrics: {error}");
            Ok(None)
        }
        listener => listener.map(Some),
    }
}

/// Says where plaque listens and what it keeps: a record of the log, if that is JSON; otherwise lines with a command to try, in one write:
/// whoever waits for the first line finds the others.
fn announce(listeners: &Listeners, args: &Args, cache_bytes: u64) -> io::Result<()> {
    let address = listeners.grpc.local_addr()?;
    let version = env!("CARGO_PKG_VERSION");
    if args.logs_json() {
        let shown = |listener: &Option<TcpListener>| {
            let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
            io::Result::Ok(address.map(|address| address.to_string()))
        };
        let (admin, http) = (shown(&listeners.admin)?, shown(&listeners.http)?);
        let (tls, store) = (listeners.tls.is_some(), args.sources.store.is_some());
        tracing::info!(version, grpc = %address, admin, http, tls, store, cache_bytes, "listening");
        return Ok(());
    }
    let (secured, scheme) = match listeners.tls {
        Some(_) => (" with TLS", "https"),
        None => ("", "http"),
    };
    let mut lines = vec![format!("plaque {version} serves gRPC on {address}{secured}")];
    if let Some(admin) = &listeners.admin {
        let admin = admin.local_addr()?;
        lines.push(format!(
            "admin: http://{admin}/metrics, /livez, /readyz; a page to look at: http://{admin}/"
        ));
    }
    if let Some(http) = &listeners.http {
        let http = http.local_addr()?;
        lines.push(format!(
            "answers as JSON: {scheme}://{http}/v1/channels/{EXAMPLE}/latest-video"
        ));
    }
    if args.sources.store.is_none() {
        let memory = bytesize::ByteSize(cache_bytes);
        lines.push(format!(
            "answers are kept in memory, up to {memory}; a restart forgets them, unless there is a --store"
        ));
    }
    if listeners.tls.is_none() {
        lines.push(format!("try: {}", grpcurl(address, EXAMPLE)));
    }
    io::stdout().write_all((lines.join("\n") + "\n").as_bytes())
}

/// A command that asks the server at `address` for `channel`.
pub(super) fn grpcurl(mut address: SocketAddr, channel: &str) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!(
        "grpcurl -plaintext -d '{{\"channel_id\":\"{channel}\"}}' {address} plaque.v1.LatestVideo/GetLatestVideo"
    )
}

fn start_telemetry(args: &Args) -> Result<Telemetry, Box<dyn std::error::Error>> {
    let variable = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = match (args.log.as_deref(), variable) {
        (Some(flag), _) => telemetry::filter(flag).map_err(|error| error.to_string()),
        (None, Some(variable)) => telemetry::filter(&variable)
            .map_err(|error| format!("invalid value {variable:?} of RUST_LOG: {error}")),
        (None, None) => telemetry::filter("info").map_err(|error| error.to_string()),
    };
    let filter = filter.map_err(InvalidFlags)?;
    let settings = telemetry::Settings {
        format: match args.log_format {
            LogFormat::Pretty => Format::Pretty,
            LogFormat::Tree => Format::Tree,
            LogFormat::Json => Format::Json,
        },
        filter,
        otlp_endpoint: args.otlp_endpoint.as_deref(),
        chrome: args.trace_chrome.as_deref(),
    };
    Ok(telemetry::start(settings)?)
}
