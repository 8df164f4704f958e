//! The tonic service: protobuf in, protobuf out. The only place that knows gRPC's codes and details.

mod cache_status;
mod convert;
mod deadline;
mod status;

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::server::HealthReporter;

pub use self::deadline::Deadlines;
use crate::{
    latest::{Latest, LookupError},
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
                cache_status::tell(reply.made, response.metadata_mut());
                Ok(response)
            }
            Err(error) => {
                let mut status = status::from(&error, reply.retry_after);
                cache_status::tell(reply.made, status.metadata_mut());
                Err(status)
            }
        }
    }

    async fn batch_get_latest_videos(
        &self,
        request: Request<BatchGetLatestVideosRequest>,
    ) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
        let request = request.into_inner();
        let queries = convert::queries(&request).map_err(|error| status::from(&error, None))?;
        let asked = queries.iter().flatten().copied();
        let mut replies = self.latest.get_all(asked).await.into_iter();

        let mut how = Vec::new();
        let results = request.channel_ids.into_iter().zip(queries).map(|(id, query)| {
            // A reply for each query that was asked, in their order.
            match query.map(|_| replies.next()) {
                Ok(Some(reply)) => {
                    how.push(reply.made);
                    convert::result(id, reply.outcome.as_ref(), reply.retry_after)
                }
                Ok(None) => convert::result(id, Err(&LookupError::ShuttingDown), None),
                Err(error) => convert::result(id, Err(&error), None),
            }
        });
        let mut response = Response::new(BatchGetLatestVideosResponse {
            results: results.collect(),
        });
        cache_status::tell_batch(&how, response.metadata_mut());
        Ok(response)
    }

    type WatchLatestVideoStream = WatchStream;

    async fn watch_latest_video(
        &self,
        request: Request<WatchLatestVideoRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let query = convert::watch(&request.into_inner()).map_err(|error| status::from(&error, None))?;
        let events = self.latest.watch(&query).map(|event| match event {
            Ok(event) => Ok(convert::event(&event)),
            Err(error) => Err(status::from(&error, None)),
        });
        let mut response = Response::new(Box::pin(events) as WatchStream);
        cache_status::tell_watch(response.metadata_mut());
        Ok(response)
    }
}

/// What happens to the watched channels, as it is sent.
type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchLatestVideoResponse, Status>> + Send>>;
