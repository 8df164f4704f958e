//! Serves one connection: [`run`](Context::run), [`handshake`](Context::handshake), [`serve_http`](Context::serve_http) and
//! [`drive`](Context::drive) are its stages. Each has a time limit that the peer cannot extend.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use prost::bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::BoxError;
use tower_http::cors::CorsLayer;

use super::{
    activity::Activity,
    calls::{CallService, STREAM_BUFFER},
    goaway::{GoAway, GoAwayStream},
    inline_executor::{ConnectionDriver, InlineExecutor, SliceTimer},
    metrics::{CloseReason, ConnectionGuard, ServerMetrics},
    stream::CountingStream,
    web,
};
use crate::{
    config::Connections,
    grpc::{self, CallMetrics},
    latest::jittered,
    net::{
        connection_slots::ConnectionSlot,
        tls::{Protocol, Tls},
    },
};

/// The length of the HTTP/2 client preface.
const PREFACE_BYTES: usize = 24;

/// The smallest read buffer that hyper accepts for HTTP/1.1.
const MIN_HTTP1_BUFFER: usize = 8 << 10;

/// The maximum age varies by a tenth either way, so that connections opened together do not all reconnect together.
const AGE_JITTER: f64 = 0.1;

/// The maximum age of a probe connection. A probe takes milliseconds; one that keeps its connection reconnects.
const PROBE_AGE: Duration = Duration::from_secs(1);

/// When a probe connection is closed, whatever its peer does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Concurrent streams of a probe connection. A probe makes one call.
const PROBE_STREAMS: u32 = 4;

/// What a connection may be used for.
pub(super) enum Admitted {
    /// All calls.
    AllCalls(ConnectionGuard),
    /// Health checks only, since the connection limit was reached.
    HealthChecks(ConnectionSlot),
}

/// What the connections of a worker share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) service: grpc::GrpcService,
    pub(super) limits: Connections,
    pub(super) calls: grpc::Limits,
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) call_metrics: Arc<CallMetrics>,
    pub(super) tls: Option<Arc<Tls>>,
    /// Enables gRPC-Web.
    pub(super) web: Option<CorsLayer>,
    pub(super) probes_only: bool,
    /// Cancelled when connections have to finish their calls and accept no more.
    pub(super) draining: CancellationToken,
    /// Counts the worker's connections.
    pub(super) connections: TaskTracker,
}

impl Context {
    /// Serves a connection to its end.
    pub(super) async fn run(&self, stream: std::net::TcpStream, admitted: Admitted) {
        let end = match TcpStream::from_std(stream) {
            Ok(stream) => match admitted {
                Admitted::AllCalls(_guard) => self.handshake(stream).await,
                Admitted::HealthChecks(slot) => self.for_probes().run_probe(stream, &slot).await,
            },
            Err(error) => {
                tracing::warn!(%error, "cannot register a connection with the event loop");
                CloseReason::Error
            }
        };
        self.metrics.record_close(end);
    }

    fn for_probes(&self) -> Self {
        let mut context = self.clone();
        context.probes_only = true;
        context.limits.age = Some(PROBE_AGE);
        context.limits.preface = context.limits.preface.min(PROBE_AGE);
        context.limits.streams = PROBE_STREAMS;
        context
    }

    /// Serves a probe connection until it is evicted for another one.
    async fn run_probe(&self, stream: TcpStream, slot: &ConnectionSlot) -> CloseReason {
        slot.start();
        tokio::select! {
            _end = self.handshake(stream) => {}
            () = slot.evicted() => {}
            () = sleep(PROBE_TIMEOUT) => {}
        }
        CloseReason::Limit
    }

    /// Performs the TLS handshake, if there is TLS, and serves the connection.
    async fn handshake(&self, stream: TcpStream) -> CloseReason {
        let deadline = Instant::now() + self.limits.preface;
        let peer = stream.peer_addr().ok().map(|address| address.ip());
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer, deadline).await;
        };
        let handshake = timeout_at(deadline, tls.accept(stream, Protocol::Grpc));
        tokio::select! {
            result = handshake => match result {
                Ok(Ok(stream)) => self.serve_http(stream, peer, deadline).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    CloseReason::Tls
                }
                Err(_elapsed) => CloseReason::Preface,
            },
            () = self.drained(self.limits.linger) => CloseReason::Drain,
        }
    }

    /// Waits until the server drains, and then for `linger`.
    async fn drained(&self, linger: Duration) {
        self.draining.cancelled().await;
        sleep(linger).await;
    }

    /// Serves HTTP on `stream` until the connection ends. The client preface has to arrive by `deadline`.
    pub(super) async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Option<IpAddr>,
        deadline: Instant,
    ) -> CloseReason {
        let activity = Activity::new(
            Arc::clone(&self.metrics),
            Arc::clone(&self.call_metrics),
            self.probes_only,
        );
        let calls = CallService::new(self.service.for_peer(peer), self.calls, Arc::clone(&activity));
        let http = self.http();
        match &self.web {
            None => {
                self.drive(stream, &http.http2_only(), calls, activity, deadline)
                    .await
            }
            Some(cors) => {
                let service = web::service(calls, cors.clone());
                self.drive(stream, &http, service, activity, deadline).await
            }
        }
    }

    fn http(&self) -> auto::Builder<InlineExecutor> {
        let limits = self.limits;
        let mut http = auto::Builder::new(InlineExecutor);
        http.http1()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(limits.preface)
            .max_buf_size((limits.header_bytes as usize).max(MIN_HTTP1_BUFFER));
        http.http2()
            .timer(SliceTimer)
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams)
            .max_send_buf_size(STREAM_BUFFER)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.keepalive)
            .keep_alive_timeout(limits.pong);
        http
    }

    /// Polls the connection until it ends by itself or has to be closed.
    async fn drive<S, B>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        http: &auto::Builder<InlineExecutor>,
        service: S,
        activity: Arc<Activity>,
        deadline: Instant,
    ) -> CloseReason
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let limits = self.limits;
        let stream = CountingStream::new(stream, Arc::clone(&activity));
        let goaway = GoAway::default();
        let stream = GoAwayStream::new(stream, goaway.clone());
        // When a ping is not answered, hyper waits until a GOAWAY is sent, which a peer that does not read would prevent.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(limits.pong));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::pin!(connection);
        let mut driver = ConnectionDriver::default();

        // `FuturesUnordered` polls it only when it is woken, and not whenever the connection is: it waits for several things.
        let announced = OnceLock::new();
        let mut closing =
            FuturesUnordered::from_iter([self.announce_close(&activity, deadline, &goaway, &announced)]);
        let reason = tokio::select! {
            biased;
            ended = poll_fn(|context| driver.poll(connection.as_mut(), context, std::time::Instant::now)) => {
                return outcome(ended, announced.get().copied().unwrap_or(CloseReason::Peer));
            }
            Some(reason) = closing.next() => reason,
        };
        if matches!(reason, CloseReason::Preface) {
            return reason;
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = poll_fn(|context| driver.poll(connection.as_mut(), context, std::time::Instant::now)) => outcome(ended, reason),
            () = activity.idle_for(limits.linger) => reason,
        }
    }

    /// Waits until the connection has to be closed, stores the reason in `announced` and sends the early GOAWAY. Then waits until the peer
    /// starts no more calls: it may have started some before it read the GOAWAY, and may have others queued.
    async fn announce_close(
        &self,
        activity: &Activity,
        deadline: Instant,
        goaway: &GoAway,
        announced: &OnceLock<CloseReason>,
    ) -> CloseReason {
        let reason = self.close_reason(activity, deadline).await;
        if !matches!(reason, CloseReason::Age | CloseReason::Drain) {
            return reason;
        }
        announced.get_or_init(|| reason);
        goaway.send();
        // Lets the connection, which is polled before this future, be polled once more.
        yield_now().await;
        let pause = self.limits.notice;
        tokio::select! {
            () = activity.no_new_calls_for(pause) => {}
            // A drain does not wait once there are no calls.
            () = activity.idle_for(pause / 20), if matches!(reason, CloseReason::Drain) => {}
        }
        reason
    }

    /// Waits until the connection has to be closed. Returns the reason.
    async fn close_reason(&self, activity: &Activity, deadline: Instant) -> CloseReason {
        let age = self.limits.age;
        let age = age.map(|age| jittered(age, AGE_JITTER, fastrand::f64()));
        tokio::select! {
            () = self.draining.cancelled() => CloseReason::Drain,
            () = preface_timeout(activity, deadline) => CloseReason::Preface,
            () = activity.rejected() => CloseReason::Limit,
            () = sleep_if_some(age) => CloseReason::Age,
            () = idle_timeout(activity, self.limits.idle) => CloseReason::Idle,
        }
    }
}

/// Completes at `deadline` if the peer has not sent the client preface by then.
async fn preface_timeout(activity: &Activity, deadline: Instant) {
    sleep_until(deadline).await;
    if activity.bytes_received() >= PREFACE_BYTES {
        std::future::pending::<()>().await;
    }
}

async fn sleep_if_some(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn idle_timeout(activity: &Activity, limit: Option<Duration>) {
    match limit {
        Some(limit) => activity.idle_for(limit).await,
        None => std::future::pending().await,
    }
}

/// The reason for which a connection was closed: `reason`, unless it failed.
fn outcome(ended: Result<(), BoxError>, reason: CloseReason) -> CloseReason {
    match ended {
        Ok(()) => reason,
        Err(error) => {
            tracing::debug!(%error, "a connection failed");
            let error = error.downcast_ref::<hyper::Error>();
            if error.is_some_and(hyper::Error::is_timeout) {
                CloseReason::Keepalive
            } else {
                CloseReason::Error
            }
        }
    }
}
