//! One connection's life: handshakes in time, calls, and an end that its peer cannot put off.

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
    calls::{Calls, STREAM_BUFFER},
    goaway::{Notice, Noticing},
    load::{Counted, End, Load},
    stream::Stream,
    turn::{Begun, TurnTimer, Turns},
    web,
};
use crate::{
    config::Connections,
    grpc::{self, CallMetrics},
    latest::jittered,
    places::Place,
    tls::{Protocol, Tls},
};

/// What every HTTP/2 client says first is so long.
const PREFACE: usize = 24;

/// hyper reads HTTP/1.1 into no smaller one.
const SMALLEST_BUFFER: usize = 8 << 10;

/// Connections of one age vary by a tenth either way, so that those opened together do not all come back together.
const AGE_JITTER: f64 = 0.1;

/// A connection for probes is told to go after so long. A probe is over within milliseconds; one that keeps its connection makes another.
const PROBE_AGE: Duration = Duration::from_secs(1);

/// It ends after so long, whatever its peer does.
const LONGEST_PROBE: Duration = Duration::from_secs(2);

/// Checks at once on it. A probe makes one.
const PROBE_STREAMS: u32 = 4;

/// What a connection is let in for.
pub(super) enum Admitted {
    /// All calls.
    ToAll(Counted),
    /// Health checks, since there are as many connections as may be.
    ForProbes(Place),
}

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) service: grpc::GrpcService,
    pub(super) limits: Connections,
    pub(super) calls: grpc::Limits,
    pub(super) load: Arc<Load>,
    pub(super) tally: Arc<CallMetrics>,
    pub(super) tls: Option<Arc<Tls>>,
    /// Lets pages in browsers call.
    pub(super) web: Option<CorsLayer>,
    /// Whether they are for health checks only.
    pub(super) for_probes: bool,
    /// Tells every connection to finish what it has, and to take nothing more.
    pub(super) draining: CancellationToken,
    /// All connections of the worker.
    pub(super) connections: TaskTracker,
}

impl Context {
    /// Serves a connection to its end.
    pub(super) async fn serve(&self, stream: std::net::TcpStream, admitted: Admitted) {
        let end = match TcpStream::from_std(stream) {
            Ok(stream) => match admitted {
                Admitted::ToAll(_counted) => self.begin(stream).await,
                Admitted::ForProbes(place) => self.for_probes().probe(stream, &place).await,
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                End::Error
            }
        };
        self.load.closed(end);
    }

    /// The same for a connection for probes.
    fn for_probes(&self) -> Self {
        let mut context = self.clone();
        context.for_probes = true;
        context.limits.age = Some(PROBE_AGE);
        context.limits.preface = context.limits.preface.min(PROBE_AGE);
        context.limits.streams = PROBE_STREAMS;
        context
    }

    /// Serves a connection for probes, which ends at once if another needs its place.
    async fn probe(&self, stream: TcpStream, place: &Place) -> End {
        place.begin();
        tokio::select! {
            _end = self.begin(stream) => {}
            () = place.shed() => {}
            () = sleep(LONGEST_PROBE) => {}
        }
        End::Limit
    }

    async fn begin(&self, stream: TcpStream) -> End {
        let deadline = Instant::now() + self.limits.preface;
        let peer = stream.peer_addr().ok().map(|address| address.ip());
        let Some(tls) = &self.tls else {
            return self.converse(stream, peer, deadline).await;
        };
        let handshake = timeout_at(deadline, tls.accept(stream, Protocol::Grpc));
        tokio::select! {
            shaken = handshake => match shaken {
                Ok(Ok(stream)) => self.converse(stream, peer, deadline).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    End::Tls
                }
                Err(_elapsed) => End::Preface,
            },
            () = self.told_to_go(self.limits.linger) => End::Drain,
        }
    }

    async fn told_to_go(&self, then: Duration) {
        self.draining.cancelled().await;
        sleep(then).await;
    }

    /// Serves calls of `peer` on `stream` to its end.
    pub(super) async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Option<IpAddr>,
        deadline: Instant,
    ) -> End {
        let activity = Activity::new(Arc::clone(&self.load), Arc::clone(&self.tally), self.for_probes);
        let calls = Calls::new(self.service.for_peer(peer), self.calls, Arc::clone(&activity));
        let http = self.http();
        match &self.web {
            None => {
                self.attend(stream, &http.http2_only(), calls, activity, deadline)
                    .await
            }
            Some(cors) => {
                let service = web::service(calls, cors.clone());
                self.attend(stream, &http, service, activity, deadline).await
            }
        }
    }

    fn http(&self) -> auto::Builder<Begun> {
        let limits = self.limits;
        let mut http = auto::Builder::new(Begun);
        http.http1()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(limits.preface)
            .max_buf_size((limits.header_bytes as usize).max(SMALLEST_BUFFER));
        http.http2()
            .timer(TurnTimer)
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams)
            .max_send_buf_size(STREAM_BUFFER)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.keepalive)
            .keep_alive_timeout(limits.pong);
        http
    }

    /// Serves what comes on `stream` by `service`, to its end.
    async fn attend<S, B>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        http: &auto::Builder<Begun>,
        service: S,
        activity: Arc<Activity>,
        deadline: Instant,
    ) -> End
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let limits = self.limits;
        let stream = Stream::new(stream, Arc::clone(&activity));
        let notice = Notice::default();
        let stream = Noticing::new(stream, notice.clone());
        // hyper waits for a GOAWAY to be sent to the peer that answers no ping, which may take nothing at all.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(limits.pong));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::pin!(connection);
        let mut turns = Turns::default();

        // Polled when it is woken, and not whenever the connection is: there are some things to wait for in it.
        let told = OnceLock::new();
        let mut leaving = FuturesUnordered::from_iter([self.leave(&activity, deadline, &notice, &told)]);
        let reason = tokio::select! {
            biased;
            ended = poll_fn(|context| turns.poll(connection.as_mut(), context, std::time::Instant::now)) => {
                return end(ended, told.get().copied().unwrap_or(End::Peer));
            }
            Some(reason) = leaving.next() => reason,
        };
        if matches!(reason, End::Preface) {
            return reason;
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = poll_fn(|context| turns.poll(connection.as_mut(), context, std::time::Instant::now)) => end(ended, reason),
            () = activity.quiet_for(limits.linger) => reason,
        }
    }

    /// Waits for the moment at which the connection has to end, notes in `told` why, gives notice, and waits until the peer has no more
    /// calls for this connection: those that it had begun before it was told, and those that it keeps for when others end.
    async fn leave(
        &self,
        activity: &Activity,
        deadline: Instant,
        notice: &Notice,
        told: &OnceLock<End>,
    ) -> End {
        let reason = self.time_to_leave(activity, deadline).await;
        if !matches!(reason, End::Age | End::Drain) {
            return reason;
        }
        told.get_or_init(|| reason);
        notice.give();
        // The connection, which has its turn before this, has it once more.
        yield_now().await;
        let pause = self.limits.notice;
        tokio::select! {
            () = activity.none_begins_for(pause) => {}
            // Somebody waits for a drain: it goes on as soon as there are no calls.
            () = activity.quiet_for(pause / 20), if matches!(reason, End::Drain) => {}
        }
        reason
    }

    /// Waits for the moment at which the connection has to end, and says why.
    async fn time_to_leave(&self, activity: &Activity, deadline: Instant) -> End {
        let age = self.limits.age;
        let age = age.map(|age| jittered(age, AGE_JITTER, fastrand::f64()));
        tokio::select! {
            () = self.draining.cancelled() => End::Drain,
            () = silent(activity, deadline) => End::Preface,
            () = activity.refused() => End::Limit,
            () = after(age) => End::Age,
            () = idle(activity, self.limits.idle) => End::Idle,
        }
    }
}

/// Ends at `deadline` if the peer has said nothing worth listening to by then.
async fn silent(activity: &Activity, deadline: Instant) {
    sleep_until(deadline).await;
    if activity.bytes_heard() >= PREFACE {
        std::future::pending::<()>().await;
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

async fn idle(activity: &Activity, limit: Option<Duration>) {
    match limit {
        Some(limit) => activity.quiet_for(limit).await,
        None => std::future::pending().await,
    }
}

/// Why a connection ended, if nothing went wrong because of `reason`.
fn end(ended: Result<(), BoxError>, reason: End) -> End {
    match ended {
        Ok(()) => reason,
        Err(error) => {
            tracing::debug!(%error, "a connection ended badly");
            let error = error.downcast_ref::<hyper::Error>();
            if error.is_some_and(hyper::Error::is_timeout) {
                End::Keepalive
            } else {
                End::Error
            }
        }
    }
}
