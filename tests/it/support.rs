//! The counting fake upstream, a server over it, and clients.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use axum::response::Response;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use plaque::{
    config::{Config, Connections, Drain, HTTP_CONNECTIONS},
    grpc,
    latest::{Policy, Settings},
    net::tls::Tls,
    origin::{self, Lookup, Origin},
    proto::v1::{GetLatestVideoRequest, GetLatestVideoResponse, latest_video_client::LatestVideoClient},
    server::{self, Drained, Listeners, ServerError, Sources},
    upstream::Upstream,
    video::ChannelId,
    youtube::{self, Pace, YouTube},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A channel that the fake knows.
pub const CHANNEL: &str = "UC0123456789abcdefghijkA";

/// Longer than any test takes: a setting that must not come into play.
pub const LONG: Duration = Duration::from_mins(10);

pub fn channel(id: &str) -> ChannelId {
    id.parse().expect("a valid channel ID")
}

/// Any upload of a made-up channel.
pub fn feed(lookup: &Lookup) -> Response {
    // 2027-01-15T08:00:00Z
    let newest = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    origin::feed(&lookup.channel, "A channel", &origin::uploads(newest, 15))
}

/// A fake upstream whose answers wait at a gate.
pub struct Fake {
    pub origin: Origin,
    arrivals: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl Fake {
    /// Answers as `reply` says, once [`Fake::release`] lets it.
    pub async fn gated(reply: fn(&Lookup) -> Response) -> Self {
        Self::start(reply, 0).await
    }

    /// Answers as `reply` says, at once.
    pub async fn open(reply: fn(&Lookup) -> Response) -> Self {
        Self::start(reply, Semaphore::MAX_PERMITS).await
    }

    async fn start(reply: fn(&Lookup) -> Response, permits: usize) -> Self {
        let arrivals = Arc::new(Semaphore::new(0));
        let gate = Arc::new(Semaphore::new(permits));
        let (arrived, opened) = (Arc::clone(&arrivals), Arc::clone(&gate));
        let origin = Origin::start(move |lookup| {
            let (arrived, opened) = (Arc::clone(&arrived), Arc::clone(&opened));
            async move {
                arrived.add_permits(1);
                opened.acquire().await.expect("never closed").forget();
                reply(&lookup)
            }
        })
        .await
        .expect("a free port");
        Self {
            origin,
            arrivals,
            gate,
        }
    }

    /// Waits until one more request has come.
    pub async fn arrival(&self) {
        self.arrivals.acquire().await.expect("never closed").forget();
    }

    /// Lets one request through the gate.
    pub fn release(&self) {
        self.gate.add_permits(1);
    }

    pub fn lookups(&self, id: &str) -> usize {
        self.origin.lookups(channel(id))
    }

    /// A server over this upstream, with settings that do not come into play.
    pub async fn serve(&self) -> Server {
        self.serve_with(|_| {}).await
    }

    pub async fn serve_with(&self, adjust: impl FnOnce(&mut Config)) -> Server {
        let mut config = self.config();
        adjust(&mut config);
        let youtube = youtube(&config);
        Server::start(config, Arc::new(youtube)).await
    }

    pub fn config(&self) -> Config {
        Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            upstream: upstream(&self.origin),
            latest: settings(),
            calls: grpc::Limits {
                deadline: LONG,
                ..grpc::Limits::default()
            },
            caller_header: None,
            connections: Connections::default(),
            http_connections: HTTP_CONNECTIONS,
            http_origins: None,
            admin_names: vec![],
            workers: NonZeroUsize::MIN.saturating_add(1),
            grpc_web: None,
            drain: Drain {
                delay: Duration::ZERO,
                timeout: LONG,
            },
            shown: vec![],
        }
    }
}

/// The real adapter.
pub fn youtube(config: &Config) -> YouTube {
    YouTube::new(config.upstream.clone()).expect("an http client")
}

/// An upstream with settings that do not come into play.
pub fn upstream(origin: &Origin) -> youtube::Settings {
    let settings = youtube::Settings::new(origin.url().clone());
    youtube::Settings {
        time_limit: LONG,
        pace: Pace {
            max_queue_wait: LONG,
            ..settings.pace
        },
        ..settings
    }
}

/// Settings that do not come into play.
pub fn settings() -> Settings {
    Settings {
        policy: Policy {
            fresh_for: LONG,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: LONG,
            negative_for: LONG,
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 16 << 20,
        max_waiters: 100_000,
        watch_every: LONG,
        watch_at_most: LONG,
        max_watched: 100_000,
        canary: None,
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub http: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<Drained, ServerError>>,
}

impl Server {
    pub async fn start(config: Config, upstream: Arc<dyn Upstream>) -> Self {
        Self::start_with(config, upstream, None, true).await
    }

    /// With a port for JSON, or without.
    pub async fn start_with(
        config: Config,
        upstream: Arc<dyn Upstream>,
        tls: Option<Arc<Tls>>,
        json: bool,
    ) -> Self {
        let bind = async |address: SocketAddr| TcpListener::bind(address).await.expect("a free port");
        let grpc = bind(config.listen).await;
        let admin = bind((Ipv4Addr::LOCALHOST, 0).into()).await;
        let http = bind((Ipv4Addr::LOCALHOST, 0).into()).await;
        let address = grpc.local_addr().expect("it is bound");
        let http_address = http.local_addr().expect("it is bound");
        let admin_address = admin.local_addr().expect("it is bound");
        let listeners = Listeners {
            grpc,
            http: json.then_some(http),
            tls,
            admin: Some(admin),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            let sources = Sources {
                upstream,
                fallbacks: vec![],
                names: vec![],
                pages: None,
                store: None,
            };
            server::run(listeners, &config, sources, stopped).await
        });
        Self {
            address,
            admin: admin_address,
            http: http_address,
            stop,
            running,
        }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::of(self.address)
    }

    pub async fn connection(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address")
            .connect()
            .await
            .expect("the server accepts")
    }

    /// Tells the server to stop; see [`Stopping::ended`].
    pub fn stop(self) -> Stopping {
        self.stop.send(()).expect("the server runs");
        Stopping(self.running)
    }
}

pub struct Stopping(JoinHandle<Result<Drained, ServerError>>);

impl Stopping {
    pub async fn ended(self) -> Drained {
        let ended = self.0.await.expect("the server does not panic");
        ended.expect("the server was up")
    }
}

/// A client, and what a test asks of it. Not tonic's own channel, which would keep deadlines itself.
#[derive(Clone)]
pub struct Client(pub LatestVideoClient<HttpClient<HttpConnector, Body>>);

/// An answer: the message, and the `cache-status` metadata.
pub type Answered = Result<(GetLatestVideoResponse, String), Status>;

impl Client {
    /// A client with a connection of its own to the server at `address`.
    pub fn of(address: SocketAddr) -> Self {
        let http = HttpClient::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let address = format!("http://{address}");
        Self(LatestVideoClient::with_origin(
            http,
            address.parse().expect("an address"),
        ))
    }

    pub async fn get(&self, channel: &str) -> Answered {
        self.ask(tonic::Request::new(request(channel))).await
    }

    pub async fn ask(&self, request: tonic::Request<GetLatestVideoRequest>) -> Answered {
        let response = self.0.clone().get_latest_video(request).await?;
        let status = cache_status(response.metadata());
        Ok((response.into_inner(), status))
    }

    /// Starts `count` calls, and returns when the server has begun to serve each of them.
    ///
    /// A connection's requests are served in the order in which they are sent, on one thread: when a later one is answered, the
    /// earlier ones have all got as far as they can. At most 150 at once: a connection may have 200.
    pub async fn start_many(&self, channel: &str, count: usize) -> Vec<JoinHandle<Answered>> {
        self.get("not a channel").await.expect_err("it is none"); // connected now
        let polled = Arc::new(AtomicUsize::new(0));
        let start = |_| {
            let (client, channel, polled) = (self.clone(), channel.to_owned(), Arc::clone(&polled));
            tokio::spawn(async move {
                polled.fetch_add(1, SeqCst);
                client.get(&channel).await
            })
        };
        let calls: Vec<_> = (0..count).map(start).collect();
        // Polled once, a task has sent its request: there is a connection. One turn of the runtime polls 61 at most.
        while polled.load(SeqCst) < count {
            tokio::task::yield_now().await;
        }
        self.get("not a channel").await.expect_err("it is none");
        calls
    }

    /// Starts a call whose task can be awaited or aborted.
    pub fn start(&self, channel: &str) -> JoinHandle<Answered> {
        let (client, channel) = (self.clone(), channel.to_owned());
        tokio::spawn(async move { client.get(&channel).await })
    }
}

/// Asks over HTTP/1.1. Returns the status and the body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _head, body) = http_get_whole(address, path).await;
    (status, body)
}

/// The same, with the status line and the headers as they came.
pub async fn http_get_whole(address: SocketAddr, path: &str) -> (u16, String, String) {
    http_get_with(address, path, "").await
}

/// The same, with `headers` of its own, each with its line's end.
pub async fn http_get_with(address: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    http_ask(address, "GET", path, headers).await
}

/// The same, with a method.
pub async fn http_ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("headers and a body");
    let status = head.split(' ').nth(1).expect("a status line");
    (
        status.parse().expect("a number"),
        head.to_lowercase(),
        body.to_owned(),
    )
}

pub fn request(channel: &str) -> GetLatestVideoRequest {
    GetLatestVideoRequest {
        channel_id: channel.into(),
        ..GetLatestVideoRequest::default()
    }
}

pub fn cache_status(metadata: &tonic::metadata::MetadataMap) -> String {
    let value = metadata.get("cache-status").expect("always there");
    value.to_str().expect("ASCII").to_owned()
}

/// The reason and all details of an error.
pub fn reason(status: &Status) -> (String, ErrorDetails) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "plaque");
    (info.reason.clone(), details)
}
