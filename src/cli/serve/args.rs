//! The flags of `plaque serve`, and the [`Config`] that they make.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread, time::Duration};

use clap::value_parser;
use http::HeaderName;

use super::log_flags::{LogFormat, directives};
use crate::{
    cli::{sources::SourceArgs, values},
    config::{self, Config, Connections, Drain, Origins},
    grpc,
    latest::Settings,
    net::tls,
    telemetry,
};

/// Serves plaque.v1.LatestVideo over gRPC (HTTP/2, with TLS if given a certificate), until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// A file with settings, in TOML: the names of flags without the dashes, such as fresh-for = "30s"; a flag that may be repeated takes an
    /// array. What is given as a flag or in the environment comes first
    #[arg(long, env = "PLAQUE_CONFIG", value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,

    /// The address for gRPC: an IP address and a port; port 0 takes a free one
    #[arg(long, env = "PLAQUE_LISTEN", default_value = "127.0.0.1:3779", value_name = "ADDRESS", value_parser = values::socket)]
    listen: SocketAddr,

    /// The address of the admin port (HTTP/1.1): a status page at /, /metrics, /livez, /readyz [default: 127.0.0.1:3780, if nothing listens
    /// there]
    #[arg(long, env = "PLAQUE_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = values::socket)]
    pub(super) admin_listen: Option<SocketAddr>,

    /// Host names of the admin port, such as plaque.example. Requests with other names are refused, so that pages cannot read it by DNS
    /// rebinding; IP addresses and localhost are always allowed
    #[arg(long, env = "PLAQUE_ADMIN_HOST", value_name = "NAME", value_delimiter = ',', value_parser = config::host_name)]
    admin_host: Vec<String>,

    /// The address for JSON over HTTP/1.1, with TLS and client certificates as for gRPC [default: none; until 0.3.0 on
    /// --admin-listen, unless there is --tls-client-ca]
    #[arg(long, env = "PLAQUE_HTTP_LISTEN", value_name = "ADDRESS", value_parser = values::socket)]
    pub(super) http_listen: Option<SocketAddr>,

    /// The most open connections of --http-listen; one more closes the one that was idle longest
    #[arg(long, env = "PLAQUE_HTTP_MAX_CONNECTIONS", default_value_t = config::HTTP_CONNECTIONS, value_name = "COUNT", value_parser = values::count, requires = "http_listen")]
    http_max_connections: NonZeroUsize,

    /// The origins of pages that may read the answers of --http-listen, such as https://app.example,http://localhost:8080, or * for all
    /// [default: only its own]
    #[arg(long, env = "PLAQUE_HTTP_ALLOW_ORIGIN", value_name = "ORIGINS", value_parser = config::origins, requires = "http_listen")]
    http_allow_origin: Option<Origins>,

    #[command(flatten)]
    pub(super) sources: SourceArgs,

    /// For how much longer an answer is given at once, while one lookup in the background revalidates it
    #[arg(long, env = "PLAQUE_STALE_WHILE_REVALIDATE", default_value = "10m", value_name = "DURATION", value_parser = values::duration)]
    stale_while_revalidate: Duration,

    /// The memory for cached channels (about 3 KiB each); those least in demand are evicted. A sixteenth is for channels that were never
    /// found, which cannot evict others
    #[arg(long, env = "PLAQUE_CACHE_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = values::bytes)]
    cache_bytes: u64,

    /// The most callers that may wait for lookups; further calls fail with OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_WAITERS", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_waiters: NonZeroUsize,

    /// How often a watched channel is polled while the rate allows it; otherwise channels that upload more are polled more often
    #[arg(long, env = "PLAQUE_WATCH_EVERY", default_value = "60s", value_name = "DURATION", value_parser = values::time_limit)]
    watch_every: Duration,

    /// The longest interval of polls of a watched channel, unless the rate is too low even for that; at least --watch-every
    #[arg(long, env = "PLAQUE_WATCH_AT_MOST", default_value = "1h", value_name = "DURATION", value_parser = values::time_limit)]
    watch_at_most: Duration,

    /// The most watched channels, counted once for each watch; a watch that would exceed it fails with OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_WATCHED", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_watched: NonZeroUsize,

    /// Serving threads, from 1 to 1024 [default: the number of cores]
    #[arg(long, env = "PLAQUE_WORKERS", value_name = "COUNT", value_parser = values::threads)]
    workers: Option<NonZeroUsize>,

    /// The time limit of a call, whatever its deadline; watches have --max-watch
    #[arg(long, env = "PLAQUE_MAX_DEADLINE", default_value = "30s", value_name = "DURATION", value_parser = values::time_limit)]
    max_deadline: Duration,

    /// The time limit of a watch; 0s for no limit
    #[arg(long, env = "PLAQUE_MAX_WATCH", default_value = "24h", value_name = "DURATION", value_parser = values::duration)]
    max_watch: Duration,

    /// The most calls in progress in the whole server, including watches; further calls fail with OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_CALLS", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_calls: NonZeroUsize,

    /// The metadata key that identifies the caller, such as l5d-client-id behind Linkerd: lookups are fair between callers. It has to be
    /// set by a proxy that callers cannot bypass [default: the peer's address identifies the caller]
    #[arg(long, env = "PLAQUE_CALLER_HEADER", value_name = "NAME", value_parser = values::header_name)]
    caller_header: Option<HeaderName>,

    /// The maximum size of a message
    #[arg(long, env = "PLAQUE_MAX_MESSAGE_BYTES", default_value = "16KiB", value_name = "SIZE", value_parser = values::small_size)]
    max_message_bytes: u32,

    /// The maximum size of the headers of one call: names, values, and 32 bytes for each
    #[arg(long, env = "PLAQUE_MAX_HEADER_BYTES", default_value = "16KiB", value_name = "SIZE", value_parser = values::small_size)]
    max_header_bytes: u32,

    /// The most open connections; further ones answer only health checks, for 2 s at most
    #[arg(long, env = "PLAQUE_MAX_CONNECTIONS", default_value = "10000", value_name = "COUNT", value_parser = values::count)]
    max_connections: NonZeroUsize,

    /// The most calls in progress on one connection
    #[arg(long, env = "PLAQUE_MAX_STREAMS", default_value = "1000", value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    max_streams: u32,

    /// The time limit of a connection's TLS handshake and HTTP/2 preface
    #[arg(long, env = "PLAQUE_PREFACE_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = values::time_limit)]
    preface_timeout: Duration,

    /// A connection without calls for this time, or up to twice as long, gets a GOAWAY; 0s for never
    #[arg(long, env = "PLAQUE_IDLE_TIMEOUT", default_value = "5m", value_name = "DURATION", value_parser = values::duration)]
    idle_timeout: Duration,

    /// The interval of pings; a peer that does not answer within 20 s is disconnected; 0s for none
    #[arg(long, env = "PLAQUE_KEEPALIVE", default_value = "60s", value_name = "DURATION", value_parser = values::duration)]
    keepalive: Duration,

    /// A connection of this age, plus or minus a tenth, gets a GOAWAY, and its calls finish; 0s for never
    #[arg(long, env = "PLAQUE_MAX_CONNECTION_AGE", default_value = "1h", value_name = "DURATION", value_parser = values::duration)]
    max_connection_age: Duration,

    /// Also serve gRPC-Web, over HTTP/1.1 and HTTP/2, for pages in browsers
    #[arg(long, env = "PLAQUE_GRPC_WEB")]
    grpc_web: bool,

    /// The origins of pages that may call, such as https://app.example,http://localhost:8080, or * for all [default: only the server's own]
    #[arg(long, env = "PLAQUE_GRPC_WEB_ORIGINS", value_name = "ORIGINS", value_parser = config::origins, requires = "grpc_web")]
    grpc_web_origins: Option<Origins>,

    /// The server's certificate and its chain, in PEM; read again on SIGHUP and when it changes. Turns TLS on
    #[arg(long, env = "PLAQUE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's key, in PEM
    #[arg(long, env = "PLAQUE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The authorities of client certificates, in PEM: clients without a certificate from one of them are rejected
    #[arg(
        long,
        env = "PLAQUE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,

    /// After SIGTERM or Ctrl-C, how long to continue while health and /readyz report that the server stops: as long as others take to
    /// notice
    #[arg(long, env = "PLAQUE_DRAIN_DELAY", default_value = "0s", value_name = "DURATION", value_parser = values::duration)]
    drain_delay: Duration,

    /// How long calls in progress may take after --drain-delay; a second signal ends at once
    #[arg(long, env = "PLAQUE_DRAIN_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = values::duration)]
    drain_timeout: Duration,

    /// The format of the log, which goes to standard error
    #[arg(
        long,
        env = "PLAQUE_LOG_FORMAT",
        default_value = "pretty",
        value_name = "FORMAT"
    )]
    pub(super) log_format: LogFormat,

    /// The collector to export traces to: an OpenTelemetry collector (Jaeger, too) that speaks OTLP over gRPC, such as
    /// http://127.0.0.1:4317
    #[arg(long, env = "PLAQUE_OTLP_ENDPOINT", value_name = "URL", value_parser = telemetry::endpoint)]
    pub(super) otlp_endpoint: Option<String>,

    /// A file to write a trace to, for https://ui.perfetto.dev
    #[arg(long, env = "PLAQUE_TRACE_CHROME", value_name = "FILE")]
    pub(super) trace_chrome: Option<PathBuf>,

    /// What to log: off, error, warn, info, debug, trace, or directives such as info,h2=debug; debug and trace alone are plaque's own,
    /// not those of libraries [default: RUST_LOG, or info]
    #[arg(long, env = "PLAQUE_LOG", value_name = "FILTER", value_parser = directives)]
    pub(super) log: Option<String>,

    /// What the status page shows of these flags.
    #[arg(skip)]
    pub(in crate::cli) shown: Vec<(String, String)>,
}

impl Args {
    /// The settings that the flags make.
    pub(super) fn config(&self) -> Result<Config, String> {
        values::check_order(
            "--watch-every",
            self.watch_every,
            "--watch-at-most",
            self.watch_at_most,
        )?;
        Ok(Config {
            listen: self.listen,
            upstream: self.sources.upstream()?,
            latest: Settings {
                policy: self.sources.policy(self.stale_while_revalidate),
                cache_bytes: self.cache_bytes,
                max_waiters: self.max_waiters.get(),
                watch_every: self.watch_every,
                watch_at_most: self.watch_at_most,
                max_watched: self.max_watched.get(),
                canary: self.sources.canary.0,
            },
            calls: grpc::Limits {
                at_once: self.max_calls,
                deadline: self.max_deadline,
                watch: unless_zero(self.max_watch),
                message_bytes: self.max_message_bytes as usize,
            },
            caller_header: self.caller_header.clone(),
            connections: Connections {
                at_once: self.max_connections,
                streams: self.max_streams,
                header_bytes: self.max_header_bytes,
                preface: self.preface_timeout,
                idle: unless_zero(self.idle_timeout),
                keepalive: unless_zero(self.keepalive),
                age: unless_zero(self.max_connection_age),
                ..Connections::default()
            },
            http_connections: self.http_max_connections,
            http_origins: self.http_allow_origin.clone(),
            admin_names: self.admin_host.clone(),
            grpc_web: self.grpc_web.then(|| {
                self.grpc_web_origins
                    .clone()
                    .unwrap_or(Origins::These(Vec::new()))
            }),
            workers: self.workers.unwrap_or_else(cores),
            drain: Drain {
                delay: self.drain_delay,
                timeout: self.drain_timeout,
            },
            shown: self.shown.clone(),
        })
    }

    /// Checks what depends on more than one flag. Reads no file that a flag names.
    pub(in crate::cli) fn check(&self) -> Result<(), String> {
        self.config().map(|_| ())
    }

    /// Whether everything that is printed is JSON.
    pub(in crate::cli) fn logs_json(&self) -> bool {
        matches!(self.log_format, LogFormat::Json)
    }

    /// The files of the certificate, if there is to be TLS.
    pub(super) fn tls_files(&self) -> Option<tls::Files> {
        Some(tls::Files {
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.tls_client_ca.clone(),
            http1: self.grpc_web,
        })
    }
}

fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// One serving thread for each core.
pub(in crate::cli) fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
