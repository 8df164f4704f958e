//! The JSON API over HTTP: its routes, its port, and the probes. Without a port of its own, the admin port serves the routes.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, rejection::PathRejection},
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use futures_util::{FutureExt as _, future::Either};
use hyper::body::Incoming;
use prost::bytes::Bytes;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::CorsLayer;

use crate::{
    config::{Config, Origins},
    grpc::{
        CACHE_STATUS, Callers, JsonService, OPENAPI, Peer, RequestError,
        lifecycle::{Stage, Stages},
    },
    net::{
        http1::{self, Limits, Port},
        tls::Tls,
    },
};

/// How long a connection may wait for the next request. Proxies keep idle connections.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);

/// The maximum age of a connection without `--max-connection-age`, since a peer that reads nothing must not stay forever.
const DEFAULT_MAX_AGE: Duration = Duration::from_hours(1);

/// The header of the status page's questions. A page of another site cannot send it (a browser would ask first), so it cannot cause lookups.
const OF_PAGE: &str = "x-plaque-page";

const ONLY_FOR_PAGE: &str =
    "this is for the page at / only; others ask /v1/channels/{channel}/latest-video\n";

/// The response of `/readyz`, and of pages that are not available yet, while the store is being opened.
pub(crate) const STARTING: &str = "starting: the store is being opened\n";

/// The API, with a limit on requests that wait for a lookup.
pub(crate) struct Api {
    http: Arc<JsonService>,
    waiters: Semaphore,
    max_waiting: usize,
}

impl Api {
    /// At most `max_waiting` requests wait for an answer; further ones are rejected.
    pub(crate) fn new(http: Arc<JsonService>, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            http,
            waiters: Semaphore::new(max_waiting),
            max_waiting,
        })
    }

    /// The API of the port for JSON.
    pub(crate) fn of_port(http: Arc<JsonService>, config: &Config) -> Arc<Self> {
        // An eighth of the connections is reserved for requests that do not wait: probes, cached answers and rejections.
        let connections = config.http_connections.get();
        Self::new(http, (connections - connections.div_ceil(8)).max(1))
    }

    /// Requests that wait for a lookup.
    pub(crate) fn waiting(&self) -> usize {
        self.max_waiting - self.waiters.available_permits()
    }

    /// Waits for `answer`, if there is room for one more request that waits.
    async fn limited(&self, mut answer: Pin<&mut impl Future<Output = Response<Bytes>>>) -> Response<Body> {
        // Cached answers need no permit.
        if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            return answer.map(Body::from);
        }
        match self.waiters.try_acquire() {
            Ok(_permit) => answer.await.map(Body::from),
            Err(_full) => self.http.overloaded(self.max_waiting).map(Body::from),
        }
    }

    /// The route of the status page, which takes any form of a channel's name: `/ask?name=…`.
    pub(crate) fn ask(self: Arc<Self>) -> Router {
        let ask = async move |Extension(peer): Extension<Peer>,
                              Query(mut parameters): Query<HashMap<String, String>>,
                              headers: HeaderMap| {
            if !headers.contains_key(OF_PAGE) {
                return (StatusCode::FORBIDDEN, ONLY_FOR_PAGE).into_response();
            }
            let name = parameters.remove("name").unwrap_or_default();
            let answer = pin!(self.http.latest_video(peer, &headers, name, vec![]));
            self.limited(answer).await
        };
        Router::new().route("/ask", get(ask))
    }

    pub(crate) fn router(self: Arc<Self>) -> Router {
        let page = async move |Extension(peer): Extension<Peer>,
                               path: Result<Path<(String, String)>, PathRejection>,
                               Query(parameters): Query<Vec<(String, String)>>,
                               headers: HeaderMap| {
            let (channel, page) = match path {
                Ok(Path(path)) => path,
                Err(error) => return refused(RequestError::MalformedMessage(error.body_text().into())),
            };
            let answer = match page.as_str() {
                "latest-video" => Either::Left(self.http.latest_video(peer, &headers, channel, parameters)),
                "uploads" => Either::Right(self.http.uploads(peer, &headers, channel, parameters)),
                _ => return refused(RequestError::NoSuchPage),
            };
            self.limited(pin!(answer)).await
        };
        let json = [(header::CONTENT_TYPE, "application/json")];
        Router::new()
            .route("/v1/channels/{channel}/{page}", get(page))
            .route("/openapi.json", get(async move || (json, OPENAPI.as_str())))
            .method_not_allowed_fallback(method_not_allowed)
    }
}

fn refused(error: RequestError) -> Response<Body> {
    JsonService::refused(error).map(Body::from)
}

/// The router adds `Allow`.
async fn method_not_allowed() -> Response<Body> {
    refused(RequestError::MethodNotAllowed)
}

/// The channel ID of a request for a latest video that has no parameters and no escapes. For these requests the router and its extractors
/// would take a quarter of the CPU time.
fn channel_of_plain_path<B>(request: &Request<B>) -> Option<&str> {
    if request.method() != Method::GET || request.uri().query().is_some() {
        return None;
    }
    let path = request.uri().path();
    let channel_id = path
        .strip_prefix("/v1/channels/")?
        .strip_suffix("/latest-video")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (!channel_id.is_empty() && channel_id.bytes().all(is_plain)).then_some(channel_id)
}

/// The probes for liveness and readiness.
pub(crate) fn probes(stages: Stages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&stages) }))
}

/// Lets pages of `origins` read answers and the headers that say how old they are.
pub(crate) fn cors(origins: &Origins) -> CorsLayer {
    let exposed = [header::AGE, CACHE_STATUS, header::ETAG, header::RETRY_AFTER];
    origins.allow([Method::GET, Method::HEAD]).expose_headers(exposed)
}

pub(crate) fn port(
    listener: std::net::TcpListener,
    tls: Option<Arc<Tls>>,
    config: &Config,
    closing: CancellationToken,
) -> Port<std::net::TcpListener> {
    let limits = config.connections;
    let limits = Limits {
        connections: config.http_connections.get(),
        handshake: limits.preface,
        read: HEADER_TIMEOUT,
        write: limits.pong,
        age: limits.age.unwrap_or(DEFAULT_MAX_AGE),
        linger: config.calls.deadline.saturating_add(limits.pong),
    };
    Port {
        listener,
        tls,
        limits,
        closing,
    }
}

/// Serves the API and the probes. Once `port` is closing, connections have `drain` to finish. Returns how many requests were cut off then.
pub(crate) async fn serve(
    port: Port<std::net::TcpListener>,
    api: Arc<Api>,
    cors: Option<CorsLayer>,
    callers: Arc<Callers>,
    stages: Stages,
    drain: Duration,
) -> usize {
    let listener = match TcpListener::from_std(port.listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot serve the JSON API");
            return 0;
        }
    };
    let port = Port {
        listener,
        tls: port.tls,
        limits: port.limits,
        closing: port.closing,
    };
    let router = Arc::clone(&api)
        .router()
        .merge(probes(stages))
        .fallback(async || refused(RequestError::NoSuchPage))
        .method_not_allowed_fallback(method_not_allowed);
    let handle_by_router = http1::router_handler(router);
    let answer = {
        let api = Arc::clone(&api);
        Arc::new(move |peer, request: Request<Incoming>| {
            match channel_of_plain_path(&request).map(str::to_owned) {
                Some(channel_id) => {
                    let api = Arc::clone(&api);
                    // Boxed, since it is moved several times: all that a lookup waits for is in it.
                    Either::Left(Box::pin(async move {
                        let answer = api
                            .http
                            .latest_video(peer, request.headers(), channel_id, Vec::new());
                        api.limited(pin!(answer)).await
                    }))
                }
                None => Either::Right(handle_by_router(peer, request)),
            }
        })
    };
    let answer = move |peer, request| match &cors {
        None => Either::Left(answer(peer, request)),
        Some(cors) => {
            let answer = Arc::clone(&answer);
            let answer = service_fn(move |request| answer(peer, request).map(Ok::<_, Infallible>));
            let answer = cors.layer(answer).oneshot(request);
            Either::Right(answer.map(|answer| answer.unwrap_or_else(|never| match never {})))
        }
    };
    let closing = port.closing.clone();
    let end = async {
        closing.cancelled().await;
        sleep(drain).await;
    };
    tokio::select! {
        biased;
        () = http1::serve(port, answer, callers) => 0,
        () = end => api.waiting(),
    }
}

fn ready(stages: &Stages) -> (StatusCode, &'static str) {
    match *stages.borrow() {
        Stage::Starting => (StatusCode::SERVICE_UNAVAILABLE, STARTING),
        Stage::Serving => (StatusCode::OK, "ready\n"),
        Stage::Draining | Stage::Closing => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}
