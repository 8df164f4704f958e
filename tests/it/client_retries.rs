//! When `plaque get` asks again.

use std::{sync::Arc, time::Duration};

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
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::program::{plaque, run};

/// A server that refuses each batch at first, and then its first channel.
#[derive(Default)]
struct Busy {
    asked: Mutex<Vec<Vec<String>>>,
}

#[tonic::async_trait]
impl LatestVideo for Busy {
    async fn batch_get_latest_videos(
        &self,
        request: Request<BatchGetLatestVideosRequest>,
    ) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
        let channels = request.into_inner().channel_ids;
        let mut asked = self.asked.lock();
        asked.push(channels.clone());
        let attempt = asked.iter().filter(|batch| batch[0] == channels[0]).count();
        if attempt == 1 {
            let details = ErrorDetails::with_error_info("OVERLOADED", "plaque", []);
            let mut status = Status::with_error_details(tonic::Code::ResourceExhausted, "busy", details);
            status.metadata_mut().insert("grpc-retry-pushback-ms", 1.into());
            return Err(status);
        }
        let result = |(index, channel_id): (usize, String)| LookupResult {
            outcome: Some(if attempt == 2 && index == 0 {
                Outcome::Failure(LookupFailure {
                    code: tonic::Code::ResourceExhausted.into(),
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
        _: Request<ListUploadsRequest>,
    ) -> Result<Response<ListUploadsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resolve_channel(
        &self,
        _: Request<ResolveChannelRequest>,
    ) -> Result<Response<ResolveChannelResponse>, Status> {
        Err(Status::unimplemented(""))
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
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let busy = Arc::new(Busy::default());
    let service = LatestVideoServer::from_arc(Arc::clone(&busy));
    // Ends with the test's runtime.
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let serve = http2::Builder::new(TokioExecutor::new());
        serve
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await
    });
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
    assert!(err.contains("55 more channels were not looked up"), "{err}");
}
