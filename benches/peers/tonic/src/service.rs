//! What the servers share: flags, and the service, of which only GetLatestVideo is implemented.

use std::{error::Error, fs, net::SocketAddr, path::PathBuf};

use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::proto::{
    BatchGetLatestVideosRequest, BatchGetLatestVideosResponse, GetLatestVideoRequest, GetLatestVideoResponse,
    ListUploadsRequest, ListUploadsResponse, ResolveChannelRequest, ResolveChannelResponse,
    WatchLatestVideoRequest, WatchLatestVideoResponse,
    latest_video_server::{LatestVideo, LatestVideoServer},
};

/// The flags of every server.
#[derive(clap::Args)]
pub struct Args {
    /// Address for gRPC; port 0 is any free port
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// A file with the answer, an encoded GetLatestVideoResponse from plaque, so that all servers send the same
    #[arg(long)]
    answer: PathBuf,
}

impl Args {
    /// Reads the answer.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or decoded.
    pub fn answer(&self) -> Result<GetLatestVideoResponse, Box<dyn Error>> {
        Ok(GetLatestVideoResponse::decode(
            fs::read(&self.answer)?.as_slice(),
        )?)
    }
}

/// Prints that a server is ready, in the same form as plaque.
pub fn ready(name: &str, address: SocketAddr) {
    println!("{name} serves gRPC on {address}");
}

/// Answers GetLatestVideo.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        &self,
        request: GetLatestVideoRequest,
    ) -> impl Future<Output = Result<GetLatestVideoResponse, Status>> + Send;
}

/// Always sends the same message, cloned for each call.
pub struct Hello(pub GetLatestVideoResponse);

impl Answers for Hello {
    async fn answer(&self, _request: GetLatestVideoRequest) -> Result<GetLatestVideoResponse, Status> {
        Ok(self.0.clone())
    }
}

/// Makes a tonic service of `answers`.
pub fn serving<A: Answers>(answers: A) -> LatestVideoServer<impl LatestVideo> {
    LatestVideoServer::new(Service(answers))
}

struct Service<A>(A);

#[tonic::async_trait]
impl<A: Answers> LatestVideo for Service<A> {
    async fn get_latest_video(
        &self,
        request: Request<GetLatestVideoRequest>,
    ) -> Result<Response<GetLatestVideoResponse>, Status> {
        self.0.answer(request.into_inner()).await.map(Response::new)
    }

    async fn batch_get_latest_videos(
        &self,
        _request: Request<BatchGetLatestVideosRequest>,
    ) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type WatchLatestVideoStream = tokio_stream::Empty<Result<WatchLatestVideoResponse, Status>>;

    async fn watch_latest_video(
        &self,
        _request: Request<WatchLatestVideoRequest>,
    ) -> Result<Response<Self::WatchLatestVideoStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_uploads(
        &self,
        _request: Request<ListUploadsRequest>,
    ) -> Result<Response<ListUploadsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn resolve_channel(
        &self,
        _request: Request<ResolveChannelRequest>,
    ) -> Result<Response<ResolveChannelResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}
