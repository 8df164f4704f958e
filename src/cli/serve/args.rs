//! The flags of `plaque serve`, and the settings that they make.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::value_parser;
use http::HeaderName;
use rustls::RootCertStore;

use super::{
    log_flags::{LogFormat, directives},
    upstream_flags::UpstreamArgs,
};
use crate::{
    cli::{pem::Pem, values},
    config::{self, Canary, Config, Connections, Drain, Origins, StoreAddress},
    grpc,
    latest::{Policy, Settings},
    store::redis,
    telemetry, tls,
};

/// Serves plaque.v1.LatestVideo over gRPC (HTTP/2, with TLS if given a certificate), until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Where to accept gRPC: an IP address and a port; port 0 takes a free one
    #[arg(long, env = "PLAQUE_LISTEN", default_value = "127.0.0.1:3779", value_name = "ADDRESS", value_parser = values::socket)]
    listen: SocketAddr,

    /// Where to answer operators over HTTP/1.1: a status page at /, /metrics, /livez, /readyz [default: 127.0.0.1:3780, if nothing listens there]
    #[arg(long, env = "PLAQUE_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = values::socket)]
    pub(super) admin_listen: Option<SocketAddr>,

    /// Names by which operators may ask there, such as plaque.example: pages that point other names there (DNS rebinding) read nothing. IP addresses
    /// and localhost need not be named
    #[arg(long, env = "PLAQUE_ADMIN_HOST", value_name = "NAME", value_delimiter = ',', value_parser = config::host_name)]
    admin_host: Vec<String>,

    /// Where to answer over HTTP/1.1 as JSON, with TLS and client certificates as for gRPC [default: nowhere; until the next release on --admin-listen,
    /// unless there is --tls-client-ca]
    #[arg(long, env = "PLAQUE_HTTP_LISTEN", value_name = "ADDRESS", value_parser = values::socket)]
    pub(super) http_listen: Option<SocketAddr>,

    /// How many connections may be open there; one more ends the one that was idle longest
    #[arg(long, env = "PLAQUE_HTTP_MAX_CONNECTIONS", default_value_t = config::HTTP_CONNECTIONS, value_name = "COUNT", value_parser = values::count, requires = "http_listen")]
    http_max_connections: NonZeroUsize,

    #[command(flatten)]
    upstream: UpstreamArgs,

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

    /// The least max_age that counts: a caller who asks for a newer answer gets one of this age. Freshness and polls have their own intervals
    #[arg(long, env = "PLAQUE_MIN_REFETCH", default_value = "5s", value_name = "DURATION", value_parser = values::duration)]
    min_refetch: Duration,

    /// A channel that exists: where nobody can tell whether a 404 means anything, it is looked up, at most once a minute. By default YouTube's
    /// own; `none` for no such lookups
    #[arg(long, env = "PLAQUE_CANARY", default_value = config::CANARY, value_name = "CHANNEL_ID", value_parser = config::canary)]
    canary: Canary,

    /// The memory for cached channels (about 3 KiB each); those least in demand make room
    #[arg(long, env = "PLAQUE_CACHE_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = values::bytes)]
    cache_bytes: u64,

    /// Where to keep what is known beyond this process: file:PATH, for a restart; or shared by replicas, which then look a channel up
    /// once among them: redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, redis-cluster://HOST,HOST [default: nowhere]
    #[arg(long, env = "PLAQUE_STORE", hide_env_values = true, value_name = "ADDRESS", value_parser = config::store)]
    store: Option<StoreAddress>,

    /// How large the file may become; a sixth of it is for channels (about 2.4 KiB each), and those that were looked up longest ago
    /// make room
    #[arg(long, env = "PLAQUE_STORE_BYTES", default_value = "1GiB", value_name = "SIZE", value_parser = values::bytes, requires = "store")]
    store_bytes: u64,

    /// The beginning of all keys in Redis; plaques share answers with those that have the same
    #[arg(
        long,
        env = "PLAQUE_STORE_PREFIX",
        default_value = "plaque",
        value_name = "PREFIX",
        requires = "store"
    )]
    store_prefix: redis::Prefix,

    /// How long the store may take for anything; if it takes longer, plaque goes on without it until it is well again
    #[arg(long, env = "PLAQUE_STORE_TIMEOUT", default_value = "250ms", value_name = "DURATION", value_parser = values::time_limit, requires = "store")]
    store_timeout: Duration,

    /// Certificates of authorities to trust instead of the system's, in PEM: for a store at rediss:// with a private CA
    #[arg(long, env = "PLAQUE_STORE_CA", value_name = "FILE", requires = "store")]
    store_ca: Option<PathBuf>,

    /// How many callers may wait for lookups at once; one more is told OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_WAITERS", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_waiters: NonZeroUsize,

    /// How often a watched channel is polled while the rate has room for all; if not, channels that upload more are polled more often
    #[arg(long, env = "PLAQUE_WATCH_EVERY", default_value = "60s", value_name = "DURATION", value_parser = values::time_limit)]
    watch_every: Duration,

    /// How long a watched channel waits for its next poll at most, unless the rate has no room even for that; no less than --watch-every
    #[arg(long, env = "PLAQUE_WATCH_AT_MOST", default_value = "1h", value_name = "DURATION", value_parser = values::time_limit)]
    watch_at_most: Duration,

    /// How many channels may be watched, counted once for each watch; a watch that would exceed it fails with OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_WATCHED", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_watched: NonZeroUsize,

    /// Serving threads [default: the number of cores]
    #[arg(long, env = "PLAQUE_WORKERS", value_name = "COUNT", value_parser = values::count)]
    workers: Option<NonZeroUsize>,

    /// How long a call may take, whatever deadline its caller sets or does not set; watches have --max-watch
    #[arg(long, env = "PLAQUE_MAX_DEADLINE", default_value = "30s", value_name = "DURATION", value_parser = values::time_limit)]
    max_deadline: Duration,

    /// How long a watch may go on; 0s for no limit
    #[arg(long, env = "PLAQUE_MAX_WATCH", default_value = "24h", value_name = "DURATION", value_parser = values::duration)]
    max_watch: Duration,

    /// How many calls may be in progress in the whole server, watches too; one more is told OVERLOADED
    #[arg(long, env = "PLAQUE_MAX_CALLS", default_value = "100000", value_name = "COUNT", value_parser = values::count)]
    max_calls: NonZeroUsize,

    /// The request metadata that names the caller, such as l5d-client-id behind Linkerd: lookups are fair between callers. It has to be set by a
    /// proxy that callers cannot pass by [default: the peer's address is the caller]
    #[arg(long, env = "PLAQUE_CALLER_HEADER", value_name = "NAME", value_parser = values::header_name)]
    caller_header: Option<HeaderName>,

    /// The largest message that is read
    #[arg(long, env = "PLAQUE_MAX_MESSAGE_BYTES", default_value = "16KiB", value_name = "SIZE", value_parser = values::small_size)]
    max_message_bytes: u32,

    /// The largest headers that are read of one call: names, values, and 32 bytes for each
    #[arg(long, env = "PLAQUE_MAX_HEADER_BYTES", default_value = "16KiB", value_name = "SIZE", value_parser = values::small_size)]
    max_header_bytes: u32,

    /// How many connections may be open; one more answers health checks only, for 2 s at most
    #[arg(long, env = "PLAQUE_MAX_CONNECTIONS", default_value = "10000", value_name = "COUNT", value_parser = values::count)]
    max_connections: NonZeroUsize,

    /// How many calls may be in progress on one connection
    #[arg(long, env = "PLAQUE_MAX_STREAMS", default_value = "1000", value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    max_streams: u32,

    /// The time for a connection's TLS handshake and HTTP/2 preface; without them it is closed
    #[arg(long, env = "PLAQUE_PREFACE_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = values::time_limit)]
    preface_timeout: Duration,

    /// A connection without a call for so long, or up to twice as long, is told to go (GOAWAY); 0s for never
    #[arg(long, env = "PLAQUE_IDLE_TIMEOUT", default_value = "5m", value_name = "DURATION", value_parser = values::duration)]
    idle_timeout: Duration,

    /// How often a peer is pinged; one that does not answer within 20 s is gone; 0s for never
    #[arg(long, env = "PLAQUE_KEEPALIVE", default_value = "60s", value_name = "DURATION", value_parser = values::duration)]
    keepalive: Duration,

    /// A connection as old, give or take a tenth, is told to go (GOAWAY), and its calls finish; 0s for never
    #[arg(long, env = "PLAQUE_MAX_CONNECTION_AGE", default_value = "1h", value_name = "DURATION", value_parser = values::duration)]
    max_connection_age: Duration,

    /// Serves gRPC-Web, too, over HTTP/1.1 and HTTP/2: for pages in browsers
    #[arg(long, env = "PLAQUE_GRPC_WEB")]
    grpc_web: bool,

    /// Whose pages may call: origins such as https://app.example,http://localhost:8080, or * for all [default: only the server's own]
    #[arg(long, env = "PLAQUE_GRPC_WEB_ORIGINS", value_name = "ORIGINS", value_parser = config::origins, requires = "grpc_web")]
    grpc_web_origins: Option<Origins>,

    /// The server's certificate and those up to its authority, in PEM; read again on SIGHUP and when it changes. Turns TLS on
    #[arg(long, env = "PLAQUE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's key, in PEM
    #[arg(long, env = "PLAQUE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The authorities of clients, in PEM: who has no certificate of theirs is not let in
    #[arg(
        long,
        env = "PLAQUE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,

    /// After SIGTERM or Ctrl-C, for how long to go on while health and /readyz say that we stop: as long as others take to hear it
    #[arg(long, env = "PLAQUE_DRAIN_DELAY", default_value = "0s", value_name = "DURATION", value_parser = values::duration)]
    drain_delay: Duration,

    /// How long calls in progress may go on after that; a second signal ends at once
    #[arg(long, env = "PLAQUE_DRAIN_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = values::duration)]
    drain_timeout: Duration,

    /// How the log is written, to standard error
    #[arg(
        long,
        env = "PLAQUE_LOG_FORMAT",
        default_value = "pretty",
        value_name = "FORMAT"
    )]
    pub(super) log_format: LogFormat,

    /// Where to export traces: an OpenTelemetry collector (Jaeger, too) that speaks OTLP over gRPC, such as http://127.0.0.1:4317
    #[arg(long, env = "PLAQUE_OTLP_ENDPOINT", value_name = "URL", value_parser = telemetry::endpoint)]
    pub(super) otlp_endpoint: Option<String>,

    /// A file to write a trace to until the end, for https://ui.perfetto.dev
    #[arg(long, env = "PLAQUE_TRACE_CHROME", value_name = "FILE")]
    pub(super) trace_chrome: Option<PathBuf>,

    /// What is logged: off, error, warn, info, debug, trace, or directives such as plaque=debug,h2=warn [default: RUST_LOG, or info]
    #[arg(long, env = "PLAQUE_LOG", value_name = "FILTER", value_parser = directives)]
    pub(super) log: Option<String>,
}

impl Args {
    /// The settings that the flags make.
    pub(super) fn config(&self) -> Result<Config, String> {
        values::in_order(
            "--watch-every",
            self.watch_every,
            "--watch-at-most",
            self.watch_at_most,
        )?;
        Ok(Config {
            listen: self.listen,
            upstream: self.upstream.settings()?,
            latest: Settings {
                policy: self.policy(),
                cache_bytes: self.cache_bytes,
                max_waiters: self.max_waiters.get(),
                watch_every: self.watch_every,
                watch_at_most: self.watch_at_most,
                max_watched: self.max_watched.get(),
                canary: self.canary.0,
            },
            store: self
                .store
                .clone()
                .map(|address| self.store(address))
                .transpose()?,
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
        })
    }

    fn store(&self, address: StoreAddress) -> Result<config::Store, String> {
        let authorities = self.store_ca.as_deref().map(store_authorities).transpose()?;
        Ok(match address {
            StoreAddress::File(path) => config::Store::File {
                path,
                bytes: self.store_bytes,
                budget: self.store_timeout,
            },
            StoreAddress::Redis(address) => config::Store::Redis(redis::Settings {
                prefix: self.store_prefix.clone(),
                budget: self.store_timeout,
                keep_for: self.policy().keep_for(),
                authorities,
                ..redis::Settings::new(address)
            }),
        })
    }

    fn policy(&self) -> Policy {
        Policy {
            fresh_for: self.fresh_for,
            stale_while_revalidate: self.stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            negative_for: self.negative_for,
            min_refetch: self.min_refetch,
        }
    }

    /// Where the certificates are, if there is to be TLS.
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

/// Authorities that will do: with others the store would be in trouble for ever.
fn store_authorities(file: &Path) -> Result<Vec<u8>, String> {
    let pem = Pem::read("--store-ca", file)?;
    let mut store = RootCertStore::empty();
    for certificate in pem.certificates("authority")? {
        let added = store.add(certificate);
        added.map_err(|error| pem.without("authority", error))?;
    }
    Ok(pem.content)
}

/// One serving thread for each core.
pub(in crate::cli) fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
