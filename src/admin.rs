//! The admin port over HTTP/1.1: a status page, probes and metrics.

mod busy;
mod demand;
mod history;
mod host;
mod page;
mod scrape;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{busy::Busy, scrape::Scrape};
use crate::{
    api::{self, Api},
    grpc::{
        CallMetrics, Callers, JsonService,
        lifecycle::{Stage, Stages},
    },
    latest::Latest,
    net::http1::{self, Limits, Port},
};

/// What the admin port shows.
pub struct AdminState {
    /// The newest uploads, sources, flights, and the busiest channels.
    pub latest: Arc<Latest>,
    /// Identifies the callers of lookups.
    pub callers: Arc<Callers>,
    /// Answers what the page is asked. `None` if callers need a certificate, which this port cannot see.
    pub http: Option<Arc<JsonService>>,
    /// Whether the JSON API has a port of its own, and is not served here.
    pub has_http_port: bool,
    /// Metrics.
    pub registry: Registry,
    /// The counters of all threads, for the last hour's charts.
    pub calls: Vec<Arc<CallMetrics>>,
    /// What the page says of the server.
    pub about: About,
    /// The server's current stage.
    pub stages: Stages,
    /// Host names that the port answers to, in addition to IP addresses and `localhost`.
    pub names: Arc<[String]>,
}

/// What the page says of the server.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The gRPC port, for commands to try.
    pub port: u16,
    /// Whether that port has TLS.
    pub tls: bool,
    /// The settings that differ from the defaults, without secrets: names and values.
    pub settings: Vec<(String, String)>,
}

/// The most connections, which do not count as callers' connections: operators' machines are few.
pub const CONNECTIONS: usize = 64;

/// The most concurrent requests for the API and of the page. Those can take long; the other connections are for probes and metrics.
const LOOKUPS: usize = 16;

const LIMITS: Limits = Limits {
    connections: CONNECTIONS,
    handshake: Duration::from_secs(10),
    read: Duration::from_secs(10),
    write: Duration::from_secs(10),
    age: Duration::from_mins(5),
    linger: Duration::from_secs(40),
};

/// How long connections from before the start have to read their responses. Their requests take no time.
const HANDOVER: Duration = Duration::from_millis(100);

const NOT_FOUND: &str = "no such page; there are /, /livez, /readyz, /metrics, /busy and /history. Answers as JSON are served by --http-listen\n";

const WRONG_HOST: &str =
    "this port answers to IP addresses, to localhost, and to the names in --admin-host\n";

fn router(state: AdminState, busy: Arc<Busy>) -> Router {
    let AdminState {
        latest,
        http,
        has_http_port,
        registry,
        stages,
        names,
        ..
    } = state;
    let scrape = Arc::new(Scrape::new(latest, registry));
    let history = Arc::clone(&busy);
    let page = page::response();
    let mut routes = Router::new()
        .route("/", get(|| async { page }))
        .route(
            "/metrics",
            get(move |headers| async move { scrape.metrics(&headers).await }),
        )
        .route("/history", get(move || async move { Json(history.history()) }))
        .route("/busy", get(move || async move { Json(busy.snapshot().await) }));
    if let Some(http) = http {
        let api = Api::new(http, LOOKUPS);
        routes = routes.merge(Arc::clone(&api).ask());
        if !has_http_port {
            routes = routes.merge(api.router());
        }
    }
    routes
        .fallback((StatusCode::NOT_FOUND, NOT_FOUND))
        .layer(from_fn_with_state(names, require_own_host))
        // Not these: probes reveal nothing, and a load balancer may use any name.
        .merge(api::probes(stages))
}

async fn require_own_host(State(names): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    if host::is_own(request.uri(), request.headers(), &names) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, WRONG_HOST).into_response()
    }
}

/// Serves the port until the task is dropped.
pub async fn serve(listener: TcpListener, state: AdminState) {
    let port = Port {
        listener,
        tls: None,
        limits: LIMITS,
        closing: CancellationToken::new(),
    };
    let callers = Arc::clone(&state.callers);
    let (latest, calls) = (Arc::clone(&state.latest), state.calls.clone());
    let busy = Arc::new(Busy::new(latest, calls, state.about.clone()));
    let router = router(state, Arc::clone(&busy));
    // One task, which ends with the port.
    tokio::select! {
        () = http1::serve(port, http1::router_handler(router), callers) => {}
        () = busy.sample() => {}
    }
}

/// Serves the probes on `listener` while `work` is in progress: plaque is alive but not ready. Later connections wait for [`serve`] on the
/// same listener.
pub async fn while_starting<T>(listener: &TcpListener, work: impl Future<Output = T>) -> T {
    let (_stage, stages) = watch::channel(Stage::Starting);
    let router = Router::new()
        .fallback((StatusCode::SERVICE_UNAVAILABLE, api::STARTING))
        .merge(api::probes(stages));
    let closing = CancellationToken::new();
    let port = Port {
        listener,
        tls: None,
        limits: Limits {
            linger: HANDOVER,
            ..LIMITS
        },
        closing: closing.clone(),
    };
    let mut serving = pin!(http1::serve(port, http1::router_handler(router), Arc::default()));
    let mut work = pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        () = &mut serving => return work.await,
    };
    closing.cancel();
    let _ = timeout(2 * HANDOVER, serving).await;
    done
}
