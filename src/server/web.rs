//! gRPC-Web: calls from pages in a browser, over HTTP/1.1 or HTTP/2, whose answers have their trailers in the body.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderName, Method, Request, Response};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tonic::{Status, body::Body};
use tonic_web::GrpcWebLayer;
use tower::{ServiceBuilder, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::calls::{CallBody, Calls};
use crate::{
    config::Origins,
    grpc::{CACHE_STATUS, PUSHBACK},
};

/// What a page may ask for need not be asked again for so long.
const MAX_AGE: Duration = Duration::from_hours(1);

/// What of an answer a page may read beside what is in the body.
const EXPOSED: [HeaderName; 5] = [
    CACHE_STATUS,
    Status::GRPC_STATUS,
    Status::GRPC_MESSAGE,
    Status::GRPC_STATUS_DETAILS,
    HeaderName::from_static(PUSHBACK),
];

/// What a page may send: what gRPC-Web's and Connect's clients do, and whatever its caller adds.
pub(super) fn cors(origins: &Origins) -> CorsLayer {
    let origins = match origins {
        Origins::Any => AllowOrigin::any(),
        Origins::These(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        .allow_headers(tower_http::cors::Any)
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}

/// `calls`, as a browser makes them; those of other clients as before.
pub(super) fn service<S, F>(
    calls: Calls<S>,
    cors: CorsLayer,
) -> impl Service<
    Request<hyper::body::Incoming>,
    Response = Response<impl http_body::Body<Data = prost::bytes::Bytes, Error = Status>>,
    Error = Infallible,
    Future: Send,
>
where
    Calls<S>: Service<Request<Body>, Response = Response<CallBody>, Error = Infallible, Future = F>,
    S: Send + Sync + 'static,
    F: Future<Output = Result<Response<CallBody>, Infallible>> + Send + 'static,
{
    let calls = Arc::new(calls);
    let service = ServiceBuilder::new()
        .layer(cors)
        .layer(GrpcWebLayer::new())
        .service(service_fn(move |request| calls.call(request)));
    TowerToHyperService::new(service)
}
