//! Serves the HTTP/1.1 ports (JSON API, admin). Every connection has time limits, and at the limit on connections a new one evicts the
//! one that was idle longest.

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
use http::{HeaderValue, Request, Response, StatusCode, header};
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
    grpc::{Callers, Peer},
    net::{
        accept::accept,
        connection_slots::{ConnectionSlot, ConnectionSlots},
        tls::{Protocol, Tls},
    },
};

/// The read buffer of a connection, which limits headers. hyper accepts no smaller one, and without a limit it would grow to 400 KiB.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// In a flood of connections, a port accepts at most this many a second, so that each keeps its slot long enough to send its request. A
/// probe behind a full listen queue (1,024) is accepted within a second.
const CONNECTIONS_PER_SECOND: f64 = 2000.0;

/// The longest time that a connection keeps its slot without a request while others need it.
const MAX_GRACE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections: usize,
    /// Time limit of a TLS handshake.
    pub(crate) handshake: Duration,
    /// Time limit for the headers of a request, from the last response on.
    pub(crate) read: Duration,
    /// How long a write may make no progress.
    pub(crate) write: Duration,
    /// The maximum age of a connection, which then finishes its request.
    pub(crate) age: Duration,
    /// How long that may take: a request's deadline and sending the response.
    pub(crate) linger: Duration,
}

/// A port to serve. With a borrowed listener, the port stays open afterwards.
pub(crate) struct Port<L = TcpListener> {
    pub(crate) listener: L,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) limits: Limits,
    /// Cancelled when connections have to finish their requests and accept no more.
    pub(crate) closing: CancellationToken,
}

/// An async function that handles one request of a [`Peer`].
pub(crate) trait Handler:
    Fn(Peer, Request<Incoming>) -> Self::Response + Send + Sync + 'static
{
    type Response: Future<Output = Response<Body>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Peer, Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send,
{
    type Response = R;
}

/// Makes a handler of a router, which finds the peer in the request's extensions.
pub(crate) fn router_handler(router: Router) -> impl Handler {
    move |peer, mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let response = router.clone().oneshot(request);
        async { response.await.unwrap_or_else(|never| match never {}) }
    }
}

/// Serves a port. Returns when it is closed and the last connection has ended.
pub(crate) async fn serve<L, H>(port: Port<L>, handler: H, callers: Arc<Callers>)
where
    L: Borrow<TcpListener>,
    H: Handler,
{
    let Port {
        listener,
        tls,
        limits,
        closing,
    } = port;
    let slots = ConnectionSlots::new(limits.connections, grace(limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_buf_size(READ_BUFFER_BYTES)
        // Copying a short body costs less than a vectored write.
        .writev(false);
    let context = Arc::new(Context {
        handler,
        callers,
        tls,
        http,
        limits,
        closing,
    });
    // Aborts the remaining connections when it is dropped.
    let mut connections = JoinSet::new();
    while let Some(stream) = context.next(listener.borrow()).await {
        let slot = slots.acquire().await;
        let context = Arc::clone(&context);
        // Owns one connection and its slot. Ended by its peer, its limits, the end of the port, or eviction.
        connections.spawn(async move {
            tokio::select! {
                () = context.handshake(stream, &slot) => {}
                () = slot.evicted() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What the connections of a port share.
struct Context<H> {
    handler: H,
    callers: Arc<Callers>,
    tls: Option<Arc<Tls>>,
    http: http1::Builder,
    limits: Limits,
    closing: CancellationToken,
}

impl<H: Handler> Context<H> {
    /// Accepts the next connection. `None` once the port is closing and the listen queue is empty: the clients of connections in it may have
    /// sent requests.
    async fn next(&self, listener: &TcpListener) -> Option<TcpStream> {
        tokio::select! {
            biased;
            stream = accept(listener) => Some(stream),
            () = self.closing.cancelled() => None,
        }
    }

    /// Performs the TLS handshake, if there is TLS, and serves the connection.
    async fn handshake(&self, stream: TcpStream, slot: &ConnectionSlot) {
        slot.start();
        let peer = self.callers.peer(address(&stream));
        // Without it, a response in two writes would wait for the peer's delayed ACK.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer, slot).await;
        };
        match timeout(self.limits.handshake, tls.accept(stream, Protocol::Http1)).await {
            Ok(Ok(stream)) => self.serve_http(stream, peer, slot).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_elapsed) => {}
        }
    }

    async fn serve_http<S>(&self, stream: S, peer: Peer, slot: &ConnectionSlot)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.write));
        let answered_one = AtomicBool::new(false);
        let service = service_fn(|request| self.handle(request, peer, slot, &answered_one));
        let stream = TokioIo::new(Box::pin(stream));
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let polled = poll_fn(|context| {
            answered_one.store(false, Relaxed);
            connection.as_mut().poll(context)
        });
        // Errors are the peer's.
        tokio::select! {
            _ended = polled => return,
            () = sleep(self.limits.age) => {}
            () = self.closing.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(self.limits.linger, connection).await;
    }

    /// Handles a request. After the first one in the same poll of the connection, it yields to other connections before each.
    async fn handle(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        slot: &ConnectionSlot,
        answered_one: &AtomicBool,
    ) -> Result<Response<Body>, Infallible> {
        let _active = slot.start_request();
        // hyper handles up to 16 pipelined requests in one poll.
        if answered_one.swap(true, Relaxed) {
            yield_now().await;
            answered_one.store(true, Relaxed);
        }
        let mut response = (self.handler)(peer, request).await;
        // It would have to be that of the 200 response (RFC 9110, section 8.6); the router sets 0 for HEAD.
        if response.status() == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        // Browsers must not guess another content type.
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        Ok(response)
    }
}

/// How long a new connection is protected from eviction, on a port with `slots` connections.
fn grace(slots: usize) -> Duration {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    Duration::from_secs_f64(f64::from(slots) / CONNECTIONS_PER_SECOND).min(MAX_GRACE)
}

fn address(stream: &TcpStream) -> Option<IpAddr> {
    stream.peer_addr().ok().map(|address| address.ip())
}
