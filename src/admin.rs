//! What operators and their machines ask over HTTP/1.1: a status page, probes, metrics.

mod busy;
mod host;
mod scrape;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use prometheus_client::registry::Registry;
use ring::digest::{SHA256, digest};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{busy::Busy, scrape::Scrape};
use crate::{
    api::{self, Api},
    grpc::{Callers, JsonService},
    http1::{self, Limits, Port},
    latest::Latest,
    lifecycle::{Stage, Stages},
};

/// What is told.
pub struct Told {
    /// What goes on.
    pub latest: Arc<Latest>,
    /// Who asks.
    pub callers: Arc<Callers>,
    /// Answers, if they are given here.
    pub http: Option<Arc<JsonService>>,
    /// Metrics.
    pub registry: Registry,
    /// Whether calls are taken.
    pub stages: Stages,
    /// What the port may be called, beside addresses and `localhost`.
    pub names: Arc<[String]>,
}

/// The most that may be connected: operators' machines are few, and need none of the connections that callers need.
pub const CONNECTIONS: usize = 64;

/// Requests for the API that may be answered at once. Those can take long; the other places are for probes and metrics.
const LOOKUPS: usize = 16;

const LIMITS: Limits = Limits {
    connections: CONNECTIONS,
    handshake: Duration::from_secs(10),
    read: Duration::from_secs(10),
    write: Duration::from_secs(10),
    age: Duration::from_mins(5),
    linger: Duration::from_secs(40),
};

/// How long connections of the time before have to read their answers. Their requests take no time.
const HANDOVER: Duration = Duration::from_millis(100);

const PAGE: &str = include_str!("admin/page.html");

const NO_SUCH_PAGE: &str = "no such page; there are /, /livez, /readyz, /metrics and /busy. Answers as JSON are served by --http-listen\n";

const NOT_OUR_NAME: &str =
    "this port answers to IP addresses, to localhost, and to the names in --admin-host\n";

/// What the page may do: run its own style and script, known by their hashes, and ask this port. Nothing of it comes from anywhere
/// else, and nothing of it goes anywhere.
fn page_policy() -> String {
    let source = |element: &str| {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let text = PAGE
            .split_once(&open)
            .and_then(|(_, rest)| rest.split_once(&close));
        let text = text.map_or("", |(text, _)| text);
        format!(
            "'sha256-{}'",
            BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()))
        )
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source("script"),
        source("style")
    )
}

fn router(told: Told) -> Router {
    let Told {
        latest,
        http,
        registry,
        stages,
        names,
        ..
    } = told;
    let scrape = Arc::new(Scrape::new(Arc::clone(&latest), registry));
    let busy = Arc::new(Busy::new(latest));
    let page = ([(header::CONTENT_SECURITY_POLICY, page_policy())], Html(PAGE));
    let ours = Router::new()
        .route("/", get(|| async { page }))
        .route("/metrics", get(move || async move { scrape.metrics().await }))
        .route("/busy", get(move || async move { Json(busy.tell().await) }));
    let ours = match http {
        Some(http) => ours.merge(Api::new(http, LOOKUPS).router()),
        None => ours,
    };
    ours.fallback((StatusCode::NOT_FOUND, NO_SUCH_PAGE))
        .layer(from_fn_with_state(names, only_ours))
        // Not these: they say nothing to anybody, and a load balancer may know us by any name.
        .merge(api::probes(stages))
}

async fn only_ours(State(names): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    if host::is_ours(request.uri(), request.headers(), &names) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, NOT_OUR_NAME).into_response()
    }
}

/// Serves all that, for ever.
pub async fn serve(listener: TcpListener, told: Told) {
    let port = Port {
        listener,
        tls: None,
        limits: LIMITS,
        closing: CancellationToken::new(),
    };
    let callers = Arc::clone(&told.callers);
    http1::serve(port, http1::router_handler(router(told)), callers).await;
}

/// Until `work` has come to an end: answers at `listener` that the process lives, and is not ready. Whoever connects then waits for
/// [`serve`] on the same listener.
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
