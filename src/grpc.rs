//! The tonic service: protobuf in, protobuf out. The only place that knows gRPC's codes and details.

mod convert;
mod deadline;
mod status;

use std::sync::Arc;

use tonic::{
    Request, Response, Status,
    metadata::{MetadataMap, MetadataValue},
    service::Routes,
};
use tonic_health::server::HealthReporter;

pub use self::deadline::Deadlines;
use crate::{
    latest::{Latest, Made, Why},
    proto::{
        self,
        v1::{
            BatchGetLatestVideosRequest, BatchGetLatestVideosResponse, GetLatestVideoRequest,
            GetLatestVideoResponse, WatchLatestVideoRequest, WatchLatestVideoResponse,
            latest_video_server::{LatestVideo, LatestVideoServer},
        },
    },
};

/// The largest message that is read: a batch of 100 channels has 2.6 kB.
const MAX_MESSAGE: usize = 16 << 10;

/// The response metadata that says how an answer was made (RFC 9211).
const CACHE_STATUS: &str = "cache-status";

/// All that is served: `LatestVideo`, reflection (v1 and v1alpha) and health, and the handle on the latter.
///
/// # Errors
///
/// If the descriptors that the build made are broken.
pub async fn routes(
    latest: Arc<Latest>,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<LatestVideoServer<Service>>().await;

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The types of the error details, with which clients such as grpcurl can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let service = LatestVideoServer::new(Service { latest }).max_decoding_message_size(MAX_MESSAGE);
    let routes = Routes::new(service)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((routes, health))
}

/// `plaque.v1.LatestVideo`.
struct Service {
    latest: Arc<Latest>,
}

#[tonic::async_trait]
impl LatestVideo for Service {
    async fn get_latest_video(
        &self,
        request: Request<GetLatestVideoRequest>,
    ) -> Result<Response<GetLatestVideoResponse>, Status> {
        let query = convert::query(&request.into_inner()).map_err(|error| status::from(&error, None))?;
        let reply = self.latest.get(query).await;
        match reply.outcome {
            Ok(answer) => {
                let mut response = Response::new(convert::response(&answer));
                tell(reply.made, response.metadata_mut());
                Ok(response)
            }
            Err(error) => {
                let mut status = status::from(&error, reply.retry_after);
                tell(reply.made, status.metadata_mut());
                Err(status)
            }
        }
    }

    async fn batch_get_latest_videos(
        &self,
        _: Request<BatchGetLatestVideosRequest>,
    ) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
        Err(Status::unimplemented(
            "BatchGetLatestVideos is not built yet; call GetLatestVideo for each channel",
        ))
    }

    type WatchLatestVideoStream = tokio_stream::Empty<Result<WatchLatestVideoResponse, Status>>;

    async fn watch_latest_video(
        &self,
        _: Request<WatchLatestVideoRequest>,
    ) -> Result<Response<Self::WatchLatestVideoStream>, Status> {
        Err(Status::unimplemented(
            "WatchLatestVideo is not built yet; poll GetLatestVideo",
        ))
    }
}

/// Says in `metadata` how an answer was made.
fn tell(made: Made, metadata: &mut MetadataMap) {
    let text = match made {
        Made::Hit { ttl } => format!("plaque; hit; ttl={ttl}"),
        Made::Forwarded {
            why,
            collapsed,
            status,
        } => {
            let why = match why {
                Why::Unknown => "uri-miss",
                Why::Stale => "stale",
                Why::Requested => "request",
            };
            let collapsed = if collapsed { "; collapsed" } else { "" };
            let status = status.map_or_else(String::new, |code| format!("; fwd-status={code}"));
            format!("plaque; fwd={why}{collapsed}{status}")
        }
    };
    if let Ok(value) = MetadataValue::try_from(text) {
        metadata.insert(CACHE_STATUS, value);
    }
}
