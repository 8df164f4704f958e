//! Answers as JSON over HTTP: the API's routes, on a port of its own or, until that is given, on the admin port.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query},
    http::{HeaderMap, Method, Request, Response, StatusCode},
    routing::get,
};
use futures_util::future::Either;
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    grpc::{Callers, Http, Peer},
    http1::{self, Limits, Port},
    lifecycle::{Stage, Stages},
    tls::Tls,
};

/// Proxies keep connections for the next request.
const READ: Duration = Duration::from_mins(1);

/// How old a connection may become without `--max-connection-age`. Its peer might read nothing, and need not stay.
const AGE: Duration = Duration::from_hours(1);

const NO_SUCH_PAGE: &str =
    "no such page; there are /v1/channels/{channel_id}/latest-video?kind=&max_age=, /livez and /readyz\n";

/// What there is to say before anything else can be asked.
pub(crate) const STARTING: &str = "starting: the store is being opened\n";

/// The API, with a bound on how many requests wait for a lookup.
pub(crate) struct Api {
    http: Arc<Http>,
    places: Semaphore,
    at_once: usize,
}

impl Api {
    /// At most `at_once` requests wait for an answer; one more is refused.
    pub(crate) fn new(http: Arc<Http>, at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            http,
            places: Semaphore::new(at_once),
            at_once,
        })
    }

    /// How many requests wait for an answer.
    fn waiting(&self) -> usize {
        self.at_once - self.places.available_permits()
    }

    async fn latest_video(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        channel_id: String,
        parameters: Vec<(String, String)>,
    ) -> Response<String> {
        let mut answer = pin!(self.http.latest_video(peer, headers, channel_id, parameters));
        // What is known is answered at once, whoever waits.
        if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            return answer;
        }
        match self.places.try_acquire() {
            Ok(_place) => answer.await,
            Err(_full) => self.http.too_many(self.at_once),
        }
    }

    /// The API's routes.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let latest_video = async move |Extension(peer): Extension<Peer>,
                                       Path(channel_id): Path<String>,
                                       Query(parameters): Query<Vec<(String, String)>>,
                                       headers: HeaderMap| {
            self.latest_video(peer, &headers, channel_id, parameters).await
        };
        Router::new().route("/v1/channels/{channel_id}/latest-video", get(latest_video))
    }
}

/// The channel of a request for its latest video that has no parameters and nothing to decode. The router and its extractors would be a
/// quarter of what its answer costs.
fn plain_channel<B>(request: &Request<B>) -> Option<&str> {
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

/// The probes: whether the process lives, and whether it takes calls.
pub(crate) fn probes(stages: Stages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&stages) }))
}

/// A port of the API's own.
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
        read: READ,
        write: limits.pong,
        age: limits.age.unwrap_or(AGE),
        linger: config.calls.deadline.saturating_add(limits.pong),
    };
    Port {
        listener,
        tls,
        limits,
        closing,
    }
}

/// Serves the API and the probes on a port of their own. Once that is closed, its connections have so long to end. Returns how many
/// requests were still in progress then, and were cut off.
pub(crate) async fn serve(
    port: Port<std::net::TcpListener>,
    http: Arc<Http>,
    callers: Arc<Callers>,
    stages: Stages,
    drain: Duration,
) -> usize {
    let listener = match TcpListener::from_std(port.listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot answer over HTTP");
            return 0;
        }
    };
    let port = Port {
        listener,
        tls: port.tls,
        limits: port.limits,
        closing: port.closing,
    };
    // Some connections are left for who does not have to wait: probes, and those who are told that there are too many.
    let connections = port.limits.connections;
    let at_once = (connections - connections.div_ceil(8)).max(1);
    let api = Api::new(http, at_once);
    let router = Arc::clone(&api)
        .router()
        .merge(probes(stages))
        .fallback((StatusCode::NOT_FOUND, NO_SUCH_PAGE));
    let by_router = http1::routed(router);
    let answer = {
        let api = Arc::clone(&api);
        move |peer, request: Request<Incoming>| match plain_channel(&request).map(str::to_owned) {
            Some(channel_id) => {
                let api = Arc::clone(&api);
                Either::Left(async move {
                    let answer = api.latest_video(peer, request.headers(), channel_id, Vec::new());
                    answer.await.map(Body::from)
                })
            }
            None => Either::Right(by_router(peer, request)),
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
