//! The same answers over HTTP, as canonical protobuf JSON: for curl and whoever has no gRPC.

pub(super) mod answer;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::{
    CallError, CallMetrics, Callers, Limits, Peer, RequestError, Service, cache_status, convert, status,
};
use crate::{
    latest::{Answer, Latest, OVERLOAD_PAUSE, Policy, Reply},
    proto::{self, v1},
};

/// Answers over HTTP.
pub struct Http {
    service: Service,
    deadline: Duration,
    /// What caches on the way may do with an answer.
    keep: HeaderValue,
}

impl Http {
    /// Answers as [`super::service`] does, to the same `callers`.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "words and numbers")]
    pub fn new(
        latest: Arc<Latest>,
        policy: Policy,
        limits: Limits,
        callers: Arc<Callers>,
        metrics: Arc<CallMetrics>,
    ) -> Self {
        // Caches reckon as plaque does: from the age, how long the answer is fresh, and what to do with it then.
        let keep = format!(
            "public, max-age={}, stale-while-revalidate={}, stale-if-error={}",
            policy.fresh_for.as_secs(),
            policy.stale_while_revalidate.as_secs(),
            policy.stale_if_error.as_secs(),
        );
        Self {
            service: Service {
                latest,
                callers,
                longest_watch: limits.watch,
                metrics,
            },
            deadline: limits.deadline,
            keep: HeaderValue::try_from(keep).expect("a header's value"),
        }
    }

    /// The answer to one request more than the `limit` that may be in progress.
    #[must_use]
    pub fn too_many(&self, limit: usize) -> Response<String> {
        refused(&CallError::TooManyCalls(limit), Some(OVERLOAD_PAUSE))
    }

    /// The newest upload of the channel `channel_id`, for a caller that is known by its connection and its request's headers. `parameters` are the
    /// other fields of a `GetLatestVideoRequest`.
    pub async fn latest_video(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        channel_id: String,
        parameters: Vec<(String, String)>,
    ) -> Response<String> {
        let request = match request(channel_id, parameters) {
            Ok(request) => request,
            Err(error) => return refused(&error.into(), None),
        };
        let deadline = Instant::now().checked_add(self.deadline);
        let caller = || self.service.callers.caller(peer, headers, deadline);
        let reply = match timeout(self.deadline, self.service.get(&request, &caller)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return refused(&error.into(), None),
            Err(_elapsed) => return refused(&CallError::Deadline, None),
        };
        let cache_status = reply.cache_status;
        let mut response = match reply {
            Reply {
                outcome: Ok(answer), ..
            } => self.found(&answer),
            Reply {
                outcome: Err(error),
                retry_after,
                ..
            } => refused(&error.into(), retry_after),
        };
        cache_status::set(cache_status, response.headers_mut());
        response
    }

    fn found(&self, answer: &Answer) -> Response<String> {
        let mut response = json(StatusCode::OK, answer::line(answer));
        // Rounded up, since `ttl` is rounded down: their sum is `max-age`.
        let age = answer.age.as_secs() + u64::from(answer.age.subsec_nanos() > 0);
        let headers = response.headers_mut();
        headers.insert(header::AGE, age.into());
        headers.insert(header::CACHE_CONTROL, self.keep.clone());
        response
    }
}

pub(super) fn request(
    channel_id: String,
    parameters: Vec<(String, String)>,
) -> Result<v1::GetLatestVideoRequest, RequestError> {
    let mut request = v1::GetLatestVideoRequest {
        channel_id,
        ..v1::GetLatestVideoRequest::default()
    };
    for (name, value) in parameters {
        match name.as_str() {
            "kind" => request.kind = convert::kind_named(&value)?,
            "max_age" | "maxAge" => {
                request.max_age = Some(value.parse().map_err(|_| RequestError::InvalidMaxAge)?);
            }
            _ => return Err(RequestError::UnknownParameter(name.into())),
        }
    }
    Ok(request)
}

/// An error as a `google.rpc.Status`.
pub(super) fn refused(error: &CallError, pause: Option<Duration>) -> Response<String> {
    let (status, retry_after) = status::with_retry_after(error, pause);
    let details = proto::status_to_json(status.details());
    // Only if the descriptors that the build made are broken.
    let (code, body) = details.map_or((StatusCode::INTERNAL_SERVER_ERROR, String::new()), |details| {
        (http_status(status.code()), details + "\n")
    });
    let mut response = json(code, body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(retry_after) = retry_after {
        let seconds = retry_after.as_millis().div_ceil(1000);
        headers.insert(
            header::RETRY_AFTER,
            u64::try_from(seconds).unwrap_or(u64::MAX).into(),
        );
    }
    response
}

/// What HTTP calls it, as `google.rpc.Code` has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
