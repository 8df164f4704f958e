//! What `get`, `list` and `watch` ask a server, when they ask again, and what they print of failures.

use std::{
    future::pending,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use plaque::proto::v1::{
    BatchGetLatestVideosRequest, BatchGetLatestVideosResponse, GetLatestVideoRequest, GetLatestVideoResponse,
    ListUploadsRequest, ListUploadsResponse, LookupFailure, LookupResult, ResolveChannelRequest,
    ResolveChannelResponse, Video, WatchLatestVideoRequest, WatchLatestVideoResponse,
    latest_video_server::{LatestVideo, LatestVideoServer},
    lookup_result::Outcome,
};
use tokio::{net::TcpListener, sync::Notify, task::yield_now, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    program::{assert_refused, first_line, plaque, run},
    support::CHANNEL,
};

/// The pause before a name is asked for again, in milliseconds.
const NAME_PAUSE: u64 = 300;

/// The channel with the handle @empty, which has no uploads.
const EMPTY: &str = "UCemptyemptyemptyemptyeA";

/// A server that refuses each batch at first, and then its first channel. It refuses every other question for a name; @never gets no
/// answer, @gone does not exist, and @end ends the server.
#[derive(Default)]
struct Busy {
    asked: Mutex<Vec<Vec<String>>>,
    /// The last attempt of [`CHANNEL`] has arrived.
    reached: Notify,
    names: AtomicUsize,
    /// The time limit of the last call about a channel.
    limit: Mutex<Duration>,
    /// The server has ended.
    end: CancellationToken,
}

impl Busy {
    /// Serves it until the end of the test's runtime. Returns the address.
    async fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let service = LatestVideoServer::from_arc(Arc::clone(self));
        let end = self.end.clone();
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                let http = http2::Builder::new(TokioExecutor::new());
                let connection = http.serve_connection(TokioIo::new(stream), service);
                tokio::spawn(end.clone().run_until_cancelled_owned(connection));
            }
        }));
        address
    }

    fn record_limit(&self, metadata: &MetadataMap) {
        let limit = metadata.get("grpc-timeout").expect("a time limit");
        let limit = limit.to_str().expect("ASCII").strip_suffix('u');
        let microseconds = limit.and_then(|limit| limit.parse().ok());
        *self.limit.lock() = Duration::from_micros(microseconds.expect("microseconds"));
    }
}

fn refused(code: Code, reason: &str, message: &str, pushback: u64) -> Status {
    let details = ErrorDetails::with_error_info(reason, "plaque", []);
    let mut status = Status::with_error_details(code, message, details);
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", pushback.into());
    status
}

#[tonic::async_trait]
impl LatestVideo for Busy {
    async fn batch_get_latest_videos(
        &self,
        request: Request<BatchGetLatestVideosRequest>,
    ) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
        self.record_limit(request.metadata());
        let channels = request.into_inner().channel_ids;
        let mut asked = self.asked.lock();
        asked.push(channels.clone());
        let attempt = asked.iter().filter(|batch| batch[0] == channels[0]).count();
        if attempt == 1 {
            return Err(refused(Code::ResourceExhausted, "OVERLOADED", "busy", 1));
        }
        if channels[0] != CHANNEL && channels.iter().any(|channel| channel == CHANNEL) || attempt == 3 {
            self.reached.notify_one();
        }
        let result = |(index, channel_id): (usize, String)| LookupResult {
            outcome: Some(if channel_id == EMPTY {
                Outcome::Failure(LookupFailure {
                    code: Code::NotFound.into(),
                    reason: "NO_UPLOADS".into(),
                    message: "the channel has no such uploads".into(),
                    ..LookupFailure::default()
                })
            } else if attempt == 2 && index == 0 {
                Outcome::Failure(LookupFailure {
                    code: Code::ResourceExhausted.into(),
                    retry_after: Some(Duration::from_millis(1).try_into().expect("short")),
                    ..LookupFailure::default()
                })
            } else {
                let video = Video {
                    channel_id: channel_id.clone(),
                    ..Video::default()
                };
                Outcome::Found(GetLatestVideoResponse {
                    video: Some(video),
                    ..GetLatestVideoResponse::default()
                })
            }),
            channel_id,
        };
        let results = channels.into_iter().enumerate().map(result).collect();
        Ok(Response::new(BatchGetLatestVideosResponse { results }))
    }

    async fn get_latest_video(
        &self,
        _: Request<GetLatestVideoRequest>,
    ) -> Result<Response<GetLatestVideoResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_uploads(
        &self,
        request: Request<ListUploadsRequest>,
    ) -> Result<Response<ListUploadsResponse>, Status> {
        self.record_limit(request.metadata());
        match request.into_inner().channel_id.as_str() {
            EMPTY => Ok(Response::new(ListUploadsResponse::default())),
            _ => Ok(Response::new(ListUploadsResponse {
                videos: vec![Video::default()],
                ..ListUploadsResponse::default()
            })),
        }
    }

    async fn resolve_channel(
        &self,
        request: Request<ResolveChannelRequest>,
    ) -> Result<Response<ResolveChannelResponse>, Status> {
        match request.into_inner().query.as_str() {
            "@never" => pending().await,
            // After the answer for the channel was written.
            "@end" => {
                self.reached.notified().await;
                for _ in 0..100 {
                    yield_now().await;
                }
                self.end.cancel();
                pending().await
            }
            "@gone" => Err(refused(
                Code::NotFound,
                "HANDLE_NOT_FOUND",
                "@gone was not found",
                0,
            )),
            "@empty" => Ok(Response::new(ResolveChannelResponse {
                channel_id: EMPTY.into(),
                ..ResolveChannelResponse::default()
            })),
            _ if self.names.fetch_add(1, Relaxed).is_multiple_of(2) => {
                Err(refused(Code::Unavailable, "UPSTREAM_ERROR", "busy", NAME_PAUSE))
            }
            _ => Ok(Response::new(ResolveChannelResponse {
                channel_id: CHANNEL.into(),
                ..ResolveChannelResponse::default()
            })),
        }
    }

    type WatchLatestVideoStream = tokio_stream::Empty<Result<WatchLatestVideoResponse, Status>>;

    async fn watch_latest_video(
        &self,
        _: Request<WatchLatestVideoRequest>,
    ) -> Result<Response<Self::WatchLatestVideoStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn get_retries_when_the_server_says_so() {
    let busy = Arc::new(Busy::default());
    let address = busy.serve().await;
    let channels: Vec<_> = (0..20).map(|number| format!("UC{number:021}A")).collect();
    let mut command = plaque();
    command.arg("get").args(&channels).args(["--server", &address]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let printed: Vec<_> = out.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(printed, channels, "in the order of the arguments");
    let asked = busy.asked.lock();
    for batch in channels.chunks(2) {
        let attempts: Vec<_> = asked.iter().filter(|asked| asked[0] == batch[0]).collect();
        assert_eq!(attempts, [batch, batch, &batch[..1]]);
    }
}

#[tokio::test]
async fn get_ends_when_there_is_no_server_any_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    // Ends the only connection, and takes no other.
    tokio::spawn(async move { listener.accept().await.map(drop) });
    let channels: Vec<_> = (0..60).map(|number| format!("UC{number:021}A")).collect();
    let mut command = plaque();
    command
        .arg("get")
        .args(&channels)
        .args(["--server", &address, "--timeout", "300ms"]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, out.as_str()), (Some(75), ""));
    assert_eq!(err.matches("(CONNECTION_LOST)").count(), 5, "{err}");
    assert!(err.contains("channels that were not looked up: 55"), "{err}");
}

#[tokio::test]
async fn what_get_was_told_before_the_server_ended_is_printed() {
    let address = Arc::new(Busy::default()).serve().await;
    let mut command = plaque();
    command.args(["get", "@end", CHANNEL, "--timeout=3s", "--server", &address]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, out.lines().count()), (Some(75), 1), "{out}{err}");
    let told = format!("@end: cannot reach {address}/: ");
    assert!(err.starts_with(&told) && err.lines().count() == 1, "{err}");
}

#[tokio::test]
async fn a_name_and_its_answer_share_the_time_limit() {
    let busy = Arc::new(Busy::default());
    let address = busy.serve().await;
    for subcommand in ["get", "list"] {
        let mut command = plaque();
        command.args([subcommand, "@later", "--timeout=15s", "--server", &address]);
        let (code, _, err) = run(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{subcommand}");
        let most = Duration::from_millis(15_000 - NAME_PAUSE);
        let limit = *busy.limit.lock();
        assert!(limit <= most, "{subcommand}: {limit:?}");
    }
}

#[tokio::test]
async fn a_slow_name_does_not_hold_up_the_channels_before_it() {
    let busy = Arc::new(Busy::default());
    let address = busy.serve().await;
    let channels = (0..20).map(|number| format!("UC{number:021}A"));
    let mut command = plaque();
    command.args(["get", CHANNEL, "@never"]).args(channels);
    command.args(["--timeout=90s", "--server", &address]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let line = timeout(Duration::from_secs(20), first_line(&mut child)).await;
    child.kill().expect("it waits for the name");
    child.wait().expect("it has ended");
    assert!(line.expect("a line").contains(CHANNEL));
}

#[tokio::test]
async fn slow_names_hold_up_no_lookup_of_an_id() {
    let busy = Arc::new(Busy::default());
    let address = busy.serve().await;
    let channels = (0..99).map(|number| format!("UC{number:021}A"));
    let mut command = plaque();
    command
        .arg("get")
        .args(["@never"; 20])
        .args(channels)
        .arg(CHANNEL);
    command.args(["--timeout=90s", "--server", &address]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let reached = timeout(Duration::from_secs(20), busy.reached.notified()).await;
    child.kill().expect("it waits for the names");
    child.wait().expect("it has ended");
    assert_eq!(reached, Ok(()));
}

/// What a command prints as JSON of a channel that is not found.
async fn not_found(subcommand: &str, channel: &str, address: &str) -> serde_json::Value {
    let mut command = plaque();
    command.args([subcommand, channel, "--json", "--server", address]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, err.as_str()), (Some(3), ""), "{subcommand}");
    serde_json::from_str(&out).expect("JSON")
}

#[tokio::test]
async fn a_failure_has_the_name_that_was_given_and_in_json_the_id() {
    let address = Arc::new(Busy::default()).serve().await;
    for subcommand in ["get", "list"] {
        let mut command = plaque();
        command.args([subcommand, "@empty", "--server", &address]);
        let text = "@empty: the channel has no such uploads (NO_UPLOADS)\n".to_owned();
        assert_eq!(run(command).await, (Some(3), String::new(), text), "{subcommand}");

        let printed = not_found(subcommand, "@empty", &address).await;
        assert_eq!(printed["channelId"], EMPTY, "{printed}");
    }
}

#[tokio::test]
async fn a_watch_goes_on_without_a_name_that_does_not_exist() {
    let address = Arc::new(Busy::default()).serve().await;
    for names in [["@gone", CHANNEL], [CHANNEL, "@gone"]] {
        let mut command = plaque();
        command.arg("watch").args(names).args(["--server", &address]);
        let (code, _, err) = run(command).await;
        let [gone, refused] = *err.lines().collect::<Vec<_>>() else {
            panic!("{err}");
        };
        assert_eq!(gone, "@gone was not found (HANDLE_NOT_FOUND)");
        // The server knows no watches.
        assert!(code == Some(1) && refused.contains("not implemented"), "{err}");
    }
}

#[tokio::test]
async fn a_failure_names_its_channel_once_and_is_json_on_request() {
    let address = Arc::new(Busy::default()).serve().await;
    for (subcommand, prefix) in [("get", ""), ("list", ""), ("watch", "error: ")] {
        let mut command = plaque();
        command.args([subcommand, "@gone", "--server", &address]);
        let text = format!("{prefix}@gone was not found (HANDLE_NOT_FOUND)\n");
        assert_eq!(run(command).await, (Some(3), String::new(), text), "{subcommand}");

        let printed = not_found(subcommand, "@gone", &address).await;
        let result = match subcommand {
            "watch" => &printed["problem"],
            _ => &printed,
        };
        assert_eq!(result["channelId"], "@gone", "{printed}");
        assert_eq!(result["failure"]["reason"], "HANDLE_NOT_FOUND", "{printed}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let advice = "is that not the port for gRPC";
    for (arguments, code, advice) in [
        (["get", CHANNEL], 75, advice),
        (["get", "@someone"], 75, advice),
        (["list", CHANNEL], 75, advice),
        (["watch", CHANNEL], 75, "--server"),
        (["health", "--service="], 1, advice),
    ] {
        let mut command = plaque();
        command
            .args(arguments)
            .args(["--timeout=300ms", "--server", &address]);
        assert_refused(command, code, &[&address, "no answer", "within 300ms", advice]).await;
    }
}
