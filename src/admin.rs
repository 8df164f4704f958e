//! What operators, their machines and curl ask over HTTP/1.1: a status page, probes, metrics, and answers as JSON.

mod busy;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, Query},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{net::TcpListener, sync::Semaphore};

use self::busy::Busy;
use crate::{
    accept::accept,
    grpc::{Http, Peer},
    latest::Latest,
    lifecycle::{Stage, Stages},
};

/// What is told.
pub struct Told {
    /// What goes on.
    pub latest: Arc<Latest>,
    /// Answers.
    pub http: Http,
    /// Metrics.
    pub registry: Registry,
    /// Whether calls are taken.
    pub stages: Stages,
}

/// What OpenMetrics calls itself.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most that may be connected: operators' machines are few, and need none of the connections that callers need.
pub const CONNECTIONS: usize = 32;

/// How long a peer may be silent before its request is complete.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing of the page comes from anywhere else, and nothing of it goes anywhere.
const PAGE_MAY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const NO_SUCH_PAGE: &str = "no such page; there are /, /livez, /readyz, /metrics, /busy and \
                            /v1/channels/{channel_id}/latest-video?kind=&max_age=\n";

fn router(latest: Arc<Latest>, http: Arc<Http>, registry: Registry, stages: Stages) -> Router {
    let registry = Arc::new(registry);
    let busy = Arc::new(Busy::new(Arc::clone(&latest)));
    let answer = move |Extension(peer): Extension<Peer>,
                       Path(channel): Path<String>,
                       Query(parameters): Query<Vec<(String, String)>>,
                       headers: HeaderMap| async move {
        http.latest_video(peer, &headers, channel, parameters).await
    };
    let page = (
        [(header::CONTENT_SECURITY_POLICY, PAGE_MAY)],
        Html(include_str!("admin/page.html")),
    );
    Router::new()
        .route("/", get(|| async { page }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&stages) }))
        .route(
            "/metrics",
            get(move || async move { metrics(&latest, &registry).await }),
        )
        .route("/busy", get(move || async move { Json(busy.tell().await) }))
        .route("/v1/channels/{channel_id}/latest-video", get(answer))
        .fallback((StatusCode::NOT_FOUND, NO_SUCH_PAGE))
}

/// Serves all that, for ever.
pub async fn serve(listener: TcpListener, told: Told) {
    let Told {
        latest,
        http,
        registry,
        stages,
    } = told;
    let callers = Arc::new(http);
    let router = router(latest, Arc::clone(&callers), registry, stages);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = accept(&listener).await;
        let peer = callers.peer(stream.peer_addr().ok().map(|address| address.ip()));
        let service = TowerToHyperService::new(router.clone().layer(Extension(peer)));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // Owns one connection. Ended by its peer, or its silence.
        tokio::spawn(async move {
            // How it ends is the peer's business.
            let _ = connection.await;
            drop(place);
        });
    }
}

fn ready(stages: &Stages) -> (StatusCode, &'static str) {
    match *stages.borrow() {
        Stage::Serving => (StatusCode::OK, "ready\n"),
        Stage::Draining | Stage::Closing => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

async fn metrics(latest: &Latest, registry: &Registry) -> impl IntoResponse + use<> {
    latest.tidy().await;
    let mut text = String::new();
    match text::encode(&mut text, registry) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
