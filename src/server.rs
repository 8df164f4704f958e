//! Accepts connections, serves them, and stops.
//!
//! Not tonic's own server: its shutdown has no time limit, its deadlines answer the wrong code, and it runs on one runtime. Here
//! an acceptor hands connections to workers, each a current-thread runtime on a thread of its own, so that a call is served on
//! the core that read it. Lookups run on the runtime that calls [`run`]: no serving thread ever parses a feed.

mod activity;
mod calls;
mod connection;
mod goaway;
mod handover;
mod load;
mod span;
mod stream;
mod turn;
mod web;
mod workers;

use std::{future::Future, io, net::TcpStream, sync::Arc, time::Duration};

use prometheus_client::{metrics::info::Info, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Handle,
    sync::watch,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::{Admitted, Context},
    load::{End, Load},
    workers::Workers,
};
use crate::{
    accept::accept,
    admin::{self, AdminState},
    api,
    config::{Config, Connections},
    grpc::{self, Tally},
    latest::Latest,
    lifecycle::Stage,
    places::Places,
    store::Store,
    tls::Tls,
    upstream::Upstream,
};

/// How long the end waits for what is on its way to the store.
const STORE_LIMIT: Duration = Duration::from_secs(3);

/// Connections beyond `--max-connections`, on which nothing but a health check is answered: for probes that make a connection of their
/// own, as Kubernetes' do.
pub(crate) const PROBES: usize = 128;

/// For how long each of them keeps its place while others need it: enough for a probe, whose request is there within milliseconds. While
/// peers connect without end, up to 8,000 are accepted in a second, so that a probe gets through the system's queue in time. Beside 2,700
/// a second on two busy cores a probe took 57 ms at most; a faster flood turns some away.
const PROBE_GRACE: Duration = Duration::from_millis(16);

/// Where a server is reached.
#[derive(Debug)]
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// Answers as JSON. Without it they are given on `admin`, unless clients have to show a certificate.
    pub http: Option<TcpListener>,
    /// TLS on the former two.
    pub tls: Option<Arc<Tls>>,
    /// Metrics and probes.
    pub admin: Option<TcpListener>,
}

/// Where answers come from.
pub struct Sources {
    /// Feeds.
    pub upstream: Arc<dyn Upstream>,
    /// What is kept of them beyond this process.
    pub store: Option<Arc<dyn Store>>,
}

impl<U: Upstream + 'static> From<U> for Sources {
    fn from(upstream: U) -> Self {
        Self {
            upstream: Arc::new(upstream),
            store: None,
        }
    }
}

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The system gave no thread or no event loop.
    #[error("cannot start a serving thread: {0}")]
    Worker(#[from] io::Error),
    /// The descriptors that the build made are broken.
    #[error("cannot describe the service for reflection: {0}")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The calls that were still in progress when the time for that was over.
    pub cut_off: usize,
}

/// Serves on `listeners` until `shutdown`, then lets the calls in progress end, for at most `config.drain.timeout`.
///
/// Lookups go to `sources`, on the runtime that this is called from.
///
/// # Errors
///
/// If the server cannot be started. Once it serves, it goes on.
pub async fn run(
    listeners: Listeners,
    config: &Config,
    sources: Sources,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServerError> {
    let Sources { upstream, store } = sources;
    let latest = Arc::new(Latest::new(
        Arc::clone(&upstream),
        store,
        config.latest,
        Handle::current(),
    ));
    latest.apply_remote_updates();
    let (stage, stages) = watch::channel(Stage::Serving);
    let load = Arc::new(Load::default());
    let draining = CancellationToken::new();
    let callers = Arc::new(grpc::Callers::new(config.caller_header.clone()));
    // Each worker has one of its own: what all calls count references of, no two threads share.
    let context = |_worker| {
        let tally = Arc::default();
        Ok(Context {
            service: grpc::serve(
                Arc::clone(&latest),
                config.calls,
                Arc::clone(&callers),
                stages.clone(),
                Arc::clone(&tally),
            )?,
            tally,
            limits: config.connections,
            calls: config.calls,
            load: Arc::clone(&load),
            tls: listeners.tls.clone(),
            web: config.grpc_web.as_ref().map(web::cors),
            for_probes: false,
            draining: draining.clone(),
            connections: TaskTracker::new(),
        })
    };
    let contexts: Result<Vec<_>, ServerError> = (0..config.workers.get()).map(context).collect();
    let contexts = contexts?;
    let by_http = Arc::<Tally>::default();
    let tallies = contexts.iter().map(|context| &context.tally).chain([&by_http]);
    let tallies = tallies.map(Arc::clone).collect();
    let acceptor = Acceptor {
        workers: Workers::start(contexts, Arc::clone(&load), draining.clone())?,
        load: Arc::clone(&load),
        max_connections: config.connections.at_once.get(),
        probes: Places::new(PROBES, PROBE_GRACE),
    };
    let registry = registry(config, tallies, &load, &latest, &*upstream);
    let http = Arc::new(grpc::Http::new(
        Arc::clone(&latest),
        config.latest.policy,
        config.calls,
        Arc::clone(&callers),
        by_http,
    ));
    let knows_clients = listeners.tls.as_ref().is_some_and(|tls| tls.knows_clients());
    let told = AdminState {
        http: (listeners.http.is_none() && !knows_clients).then(|| Arc::clone(&http)),
        latest: Arc::clone(&latest),
        callers: Arc::clone(&callers),
        registry,
        stages: stages.clone(),
        names: config.admin_names.as_slice().into(),
    };
    let json = listeners.http.map(|listener| {
        let tls = listeners.tls.clone();
        let port = api::port(listener, tls, config, draining.clone());
        // Owns the port and its connections. Ended by the drain, or with the time for that.
        tokio::spawn(api::serve(port, http, callers, stages, config.drain.timeout))
    });
    let admin = listeners.admin.map(|listener| {
        // Owns the probes and metrics. Ended below, when there is nothing left to tell.
        tokio::spawn(admin::serve(listener, told))
    });

    let listener = listeners.grpc;
    tokio::select! {
        () = acceptor.accept(&listener) => {}
        () = shutdown => {}
    }
    tracing::info!(connections = load.connections(), calls = load.calls(), "draining");
    stage.send_replace(Stage::Draining);
    tokio::select! {
        () = acceptor.accept(&listener) => {}
        () = tokio::time::sleep(config.drain.delay) => {}
    }
    let workers = acceptor.close(listener);
    stage.send_replace(Stage::Closing);
    latest.close();
    let mut cut_off = workers.drain(config.drain.timeout).await;
    if let Some(json) = json {
        // It has drained meanwhile.
        cut_off += json.await.unwrap_or(0);
    }
    latest.close_store(STORE_LIMIT).await;
    if let Some(admin) = admin {
        admin.abort();
    }
    Ok(Drained { cut_off })
}

/// All that is counted.
fn registry(
    config: &Config,
    tallies: Vec<Arc<Tally>>,
    load: &Load,
    latest: &Arc<Latest>,
    upstream: &dyn Upstream,
) -> Registry {
    let mut registry = Registry::default();
    grpc::register(tallies, &mut registry);
    let own = registry.sub_registry_with_prefix("plaque");
    own.register(
        "build",
        "What runs",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    load.register(own);
    Load::register_limits(config, own);
    latest.register(own);
    upstream.register(own);
    registry
}

/// Serves one connection that was made already, over any stream: one in memory, for example. Returns when it has ended.
pub async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    service: grpc::Served,
    calls: grpc::Limits,
    limits: Connections,
) {
    let preface = Instant::now() + limits.preface;
    let context = Context {
        service,
        limits,
        calls,
        load: Arc::default(),
        tally: Arc::default(),
        tls: None,
        web: None,
        for_probes: false,
        draining: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    context.converse(stream, None, preface).await;
}

/// Hands connections to workers.
struct Acceptor {
    workers: Workers,
    load: Arc<Load>,
    max_connections: usize,
    /// For connections beyond that.
    probes: Arc<Places>,
}

impl Acceptor {
    /// Accepts for ever.
    async fn accept(&self, listener: &TcpListener) {
        let accepting = async {
            loop {
                // Off this runtime's event loop; a worker puts it on its own.
                let stream = accept(listener).await.into_std();
                let admitted = match self.load.connected(self.max_connections) {
                    Some(counted) => Admitted::ToAll(counted),
                    None => Admitted::ForProbes(self.probes.take().await),
                };
                self.hand_over(stream, admitted);
            }
        };
        tokio::join!(accepting, self.workers.relieve());
    }

    fn hand_over(&self, stream: io::Result<TcpStream>, admitted: Admitted) {
        if let Err(error) = stream.and_then(|stream| self.workers.serve(stream, admitted)) {
            tracing::warn!(%error, "a connection could not be handed over");
        }
    }

    /// Stops listening. Connections that were made already are accepted: their clients may have sent calls.
    fn close(self, listener: TcpListener) -> Workers {
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, _peer)) = listener.accept() {
                // Who comes to look how the server is need not wait for its end.
                let Some(counted) = self.load.connected(self.max_connections) else {
                    self.load.closed(End::Limit);
                    continue;
                };
                self.hand_over(
                    stream.set_nonblocking(true).map(|()| stream),
                    Admitted::ToAll(counted),
                );
            }
        }
        self.workers
    }
}
