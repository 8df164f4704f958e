//! HTTP/1.1 ports: every connection ends whatever its peer does, and one more than there may be sheds the one that was idle longest.

use std::{
    borrow::Borrow,
    convert::Infallible,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    accept::accept,
    grpc::{Callers, Peer},
    places::{Place, Places},
    tls::{Protocol, Tls},
};

/// hyper reads into no smaller buffer, and keeps one of this size for each connection. Without a limit it would grow to 400 KiB.
const HEADER_BYTES: usize = 16 << 10;

/// While peers connect without end, a port takes at most so many connections a second: each has its place for long enough to send its
/// request. A probe that comes behind as many as the system keeps (1,024) is accepted within a second.
const CONNECTIONS_A_SECOND: f64 = 2000.0;

/// However many places there are, no connection keeps one for longer without a request while others need it.
const LONGEST_GRACE: Duration = Duration::from_millis(500);

/// What connections may take of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections: usize,
    /// For a TLS handshake.
    pub(crate) handshake: Duration,
    /// Until a request's headers are complete, since the last request's answer.
    pub(crate) read: Duration,
    /// How long a peer may take nothing of what is sent.
    pub(crate) write: Duration,
    /// How old a connection may become. It then finishes the request that it has.
    pub(crate) age: Duration,
    /// How long it has for that: as long as a request may take, and sending its answer.
    pub(crate) linger: Duration,
}

/// Where requests come from. One that only borrows its listener leaves the port open when it ends.
pub(crate) struct Port<L = TcpListener> {
    pub(crate) listener: L,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) limits: Limits,
    /// Tells every connection to finish its request, and to take no further one.
    pub(crate) closing: CancellationToken,
}

/// Answers one request of a [`Peer`].
pub(crate) trait Answer:
    Fn(Peer, Request<Incoming>) -> Self::Response + Send + Sync + 'static
{
    type Response: Future<Output = Response<Body>> + Send;
}

impl<F, R> Answer for F
where
    F: Fn(Peer, Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send,
{
    type Response = R;
}

/// Answers by a router, which finds the peer among a request's extensions.
pub(crate) fn routed(router: Router) -> impl Answer {
    move |peer, mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let response = router.clone().oneshot(request);
        async { response.await.unwrap_or_else(|never| match never {}) }
    }
}

/// Serves a port's connections. Returns when `port` is closed and the last connection has ended.
pub(crate) async fn serve<L, A>(port: Port<L>, answer: A, callers: Arc<Callers>)
where
    L: Borrow<TcpListener>,
    A: Answer,
{
    let Port {
        listener,
        tls,
        limits,
        closing,
    } = port;
    let places = Places::new(limits.connections, grace(limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_buf_size(HEADER_BYTES)
        // To copy a short body costs less than to write two pieces.
        .writev(false);
    let context = Arc::new(Context {
        answer,
        callers,
        tls,
        http,
        limits,
        closing,
    });
    // Aborts those that are left when this is dropped.
    let mut connections = JoinSet::new();
    while let Some(stream) = context.next(listener.borrow()).await {
        let place = places.take().await;
        let context = Arc::clone(&context);
        // Owns one connection and its place. Ended by its peer, its limits, the end of the port, or a connection that needs the place.
        connections.spawn(async move {
            tokio::select! {
                () = context.attend(stream, &place) => {}
                () = place.shed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What all connections have in common.
struct Context<A> {
    answer: A,
    callers: Arc<Callers>,
    tls: Option<Arc<Tls>>,
    http: http1::Builder,
    limits: Limits,
    closing: CancellationToken,
}

impl<A: Answer> Context<A> {
    /// The next connection. At the end, those that were made already come first: their clients may have sent requests.
    async fn next(&self, listener: &TcpListener) -> Option<TcpStream> {
        tokio::select! {
            biased;
            stream = accept(listener) => Some(stream),
            () = self.closing.cancelled() => None,
        }
    }

    /// Serves a connection to its end.
    async fn attend(&self, stream: TcpStream, place: &Place) {
        place.begin();
        let peer = self.callers.peer(address(&stream));
        // A request that is answered in two writes would otherwise wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.converse(stream, peer, place).await;
        };
        match timeout(self.limits.handshake, tls.accept(stream, Protocol::Http1)).await {
            Ok(Ok(stream)) => self.converse(stream, peer, place).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_elapsed) => {}
        }
    }

    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, place: &Place) {
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.write));
        let answered = AtomicBool::new(false);
        let service = service_fn(|request| self.answer(request, peer, place, &answered));
        let stream = TokioIo::new(Box::pin(stream));
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let polled = poll_fn(|context| {
            answered.store(false, Relaxed);
            connection.as_mut().poll(context)
        });
        // How it ends is the peer's business.
        tokio::select! {
            _ended = polled => return,
            () = sleep(self.limits.age) => {}
            () = self.closing.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(self.limits.linger, connection).await;
    }

    /// Answers a request, unless another one was `answered` in the same turn: in the next.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        place: &Place,
        answered: &AtomicBool,
    ) -> Result<Response<Body>, Infallible> {
        let _busy = place.busy();
        // A peer may send many requests at once, of which hyper answers 16 in one go. The others' come in between.
        if answered.swap(true, Relaxed) {
            yield_now().await;
            answered.store(true, Relaxed);
        }
        let mut response = (self.answer)(peer, request).await;
        // A browser believes what an answer says that it is.
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        Ok(response)
    }
}

/// For how long a new connection keeps one of so many places, whoever else needs it.
fn grace(places: usize) -> Duration {
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    Duration::from_secs_f64(f64::from(places) / CONNECTIONS_A_SECOND).min(LONGEST_GRACE)
}

fn address(stream: &TcpStream) -> Option<IpAddr> {
    stream.peer_addr().ok().map(|address| address.ip())
}
