//! The service `grpc.health.v1`. tonic's own has no `List`, and ends a watch of an unknown service.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::status;
use crate::{
    grpc::lifecycle::{Stage, Stages},
    latest::LookupError,
    proto::{
        health::{
            HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
            health_check_response::ServingStatus, health_server,
        },
        v1::latest_video_server::SERVICE_NAME,
    },
};

/// The services that have a status. The empty name stands for the whole server.
const SERVICES: [&str; 2] = ["", SERVICE_NAME];

/// Derives health from the stage of the server alone: an outage of the upstream is the same at all replicas, so that callers need not go
/// elsewhere.
pub(super) struct Health(pub(super) Stages);

fn status_of(service: &str, stage: Stage) -> ServingStatus {
    match stage {
        _ if !SERVICES.contains(&service) => ServingStatus::ServiceUnknown,
        Stage::Serving => ServingStatus::Serving,
        Stage::Starting | Stage::Draining | Stage::Closing => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status_of(&service, *self.0.borrow()) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!(
                "there is no service {service:?} here; there are {SERVICES:?}"
            ))),
            status => Ok(Response::new(response(status))),
        }
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let stage = *self.0.borrow();
        let statuses = SERVICES.map(|service| (service.to_owned(), response(status_of(service, stage))));
        Ok(Response::new(HealthListResponse {
            statuses: statuses.into(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let last_sent = None;
        let statuses = stream::unfold(Some((self.0.clone(), last_sent)), move |watch| {
            let service = service.clone();
            async move {
                let (mut stages, last_sent) = watch?;
                loop {
                    let stage = *stages.borrow_and_update();
                    let status = status_of(&service, stage);
                    if last_sent != Some(status) {
                        return Some((Ok(response(status)), Some((stages, Some(status)))));
                    }
                    if stage == Stage::Closing || stages.changed().await.is_err() {
                        return Some((Err(status::from(LookupError::ShuttingDown, None)), None));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
