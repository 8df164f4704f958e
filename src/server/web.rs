//! gRPC-Web: calls from pages in browsers, over HTTP/1.1 or HTTP/2, with trailers in the response body.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderName, Method, Request, Response};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tonic::{Status, body::Body};
use tonic_web::GrpcWebLayer;
use tower::{ServiceBuilder, service_fn};
use tower_http::cors::CorsLayer;

use super::calls::{CallService, ResponseBody};
use crate::{
    config::Origins,
    grpc::{CACHE_STATUS, PUSHBACK},
};

/// Response headers that pages may read.
const EXPOSED_HEADERS: [HeaderName; 5] = [
    CACHE_STATUS,
    Status::GRPC_STATUS,
    Status::GRPC_MESSAGE,
    Status::GRPC_STATUS_DETAILS,
    HeaderName::from_static(PUSHBACK),
];

/// The CORS policy for pages of `origins`.
pub(super) fn cors(origins: &Origins) -> CorsLayer {
    origins.allow([Method::POST]).expose_headers(EXPOSED_HEADERS)
}

/// Adds CORS and gRPC-Web to `calls`. Other calls pass through unchanged.
pub(super) fn service<S, F>(
    calls: CallService<S>,
    cors: CorsLayer,
) -> impl Service<
    Request<hyper::body::Incoming>,
    Response = Response<impl http_body::Body<Data = prost::bytes::Bytes, Error = Status>>,
    Error = Infallible,
    Future: Send,
>
where
    CallService<S>: Service<Request<Body>, Response = Response<ResponseBody>, Error = Infallible, Future = F>,
    S: Send + Sync + 'static,
    F: Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + 'static,
{
    let calls = Arc::new(calls);
    let service = ServiceBuilder::new()
        .layer(cors)
        .layer(GrpcWebLayer::new())
        .service(service_fn(move |request| calls.call(request)));
    TowerToHyperService::new(service)
}
