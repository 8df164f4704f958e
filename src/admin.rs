//! What operators and their machines ask over HTTP/1.1: probes and metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    accept::accept,
    lifecycle::{Stage, Stages},
};

/// What OpenMetrics calls itself.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most that may be connected: operators' machines are few, and need none of the connections that callers need.
pub const CONNECTIONS: usize = 32;

/// How long a peer may be silent before its request is complete.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves `/livez`, `/readyz` and `/metrics`, for ever.
pub async fn serve(listener: TcpListener, registry: Registry, stages: Stages) {
    let registry = Arc::new(registry);
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&stages) }))
        .route("/metrics", get(move || async move { metrics(&registry) }));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = accept(&listener).await;
        let service = TowerToHyperService::new(router.clone());
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

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match text::encode(&mut text, registry) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
