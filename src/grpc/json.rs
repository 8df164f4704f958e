//! `GetLatestVideo` and `ListUploads` over plain HTTP, with canonical protobuf JSON, for clients without gRPC.

pub(super) mod answer;
mod error;
pub(super) mod openapi;
mod writer;

use std::{pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use prost::bytes::Bytes;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::{
    CallError, CallMetrics, Callers, Ended, Limits, Method, Peer, RequestError, Service, cache_status,
    convert, status::Report,
};
use crate::{
    latest::{Latest, OVERLOAD_PAUSE, Policy},
    proto::{self, v1},
    resolver::Resolver,
    upstream::Caller,
};

/// The codes of its errors.
const ERRORS: [Code; 7] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::Unimplemented,
    Code::ResourceExhausted,
    Code::Internal,
    Code::Unavailable,
    Code::DeadlineExceeded,
];

/// The service behind the JSON API.
pub struct JsonService {
    service: Service,
    deadline: Duration,
    /// The `Cache-Control` of answers.
    cache_control: HeaderValue,
}

impl JsonService {
    /// Creates the service. `callers` are shared with [`super::service`].
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "ASCII only")]
    pub fn new(
        latest: Arc<Latest>,
        resolver: Resolver,
        policy: Policy,
        limits: Limits,
        callers: Arc<Callers>,
        metrics: Arc<CallMetrics>,
    ) -> Self {
        // Caches apply the same freshness policy as plaque.
        let cache_control = format!(
            "public, max-age={}, stale-while-revalidate={}, stale-if-error={}",
            policy.fresh_for.as_secs(),
            policy.stale_while_revalidate.as_secs(),
            policy.stale_if_error.as_secs(),
        );
        Self {
            service: Service {
                latest,
                resolver,
                callers,
                longest_watch: limits.watch,
                metrics,
            },
            deadline: limits.deadline,
            cache_control: HeaderValue::try_from(cache_control).expect("a valid header value"),
        }
    }

    /// The response to a request beyond the `limit` of requests in progress.
    #[must_use]
    pub fn overloaded(&self, limit: usize) -> Response<Bytes> {
        error_response(&CallError::TooManyCalls(limit), Some(OVERLOAD_PAUSE))
    }

    /// The response to a request for none of the methods.
    pub(crate) fn refused(error: RequestError) -> Response<Bytes> {
        error_response(&error.into(), None)
    }

    /// Returns the newest upload of a channel. `parameters` are the other fields of a `GetLatestVideoRequest`; `peer` and `headers` identify
    /// the caller.
    pub async fn latest_video(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        channel: String,
        parameters: Vec<(String, String)>,
    ) -> Response<Bytes> {
        let began = Instant::now();
        let caller = self.caller(peer, headers, began);
        let reply = self.within_deadline(async {
            let request = request(self.channel_id(channel, &caller).await?, parameters)?;
            Ok(self.service.get(&request, &caller).await?)
        });
        let response = match reply.await {
            Ok(reply) => {
                let (cache_status, source) = (reply.cache_status, reply.source());
                let mut response = match reply.outcome {
                    Ok(answer) => {
                        let (json, tag) = answer::to_json(&answer);
                        self.success(json, tag, Some(answer.age), headers)
                    }
                    Err(error) => error_response(&error.into(), reply.retry_after),
                };
                cache_status::set(cache_status, source, response.headers_mut());
                response
            }
            Err(error) => error_response(&error, Some(error.retry_after())),
        };
        self.record(Method::LatestVideoAsJson, &response, began);
        response
    }

    fn record(&self, method: Method, response: &Response<Bytes>, began: Instant) {
        let code = Ended::of(grpc_code(response.status()));
        self.service.metrics.record_call(method, code, began.elapsed());
    }

    /// Returns a page of a channel's uploads. `parameters` are the other fields of a `ListUploadsRequest`.
    pub async fn uploads(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        channel: String,
        parameters: Vec<(String, String)>,
    ) -> Response<Bytes> {
        let began = Instant::now();
        let caller = self.caller(peer, headers, began);
        let page = self.within_deadline(async {
            let request = list_request(self.channel_id(channel, &caller).await?, parameters)?;
            Ok(self.service.list(&request, &caller).await)
        });
        let response = match page.await {
            Ok(Ok(listed)) => match proto::to_json("ListUploadsResponse", &convert::listed(&listed)) {
                Some(json) => {
                    let tag = answer::entity_tag(&around_freshness(&json));
                    let age = listed.answer.map(|answer| answer.age);
                    self.success((json + "\n").into(), tag, age, headers)
                }
                // Only if the descriptors generated by the build are broken.
                None => json_response(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
            },
            Ok(Err((error, retry_after))) => error_response(&error, retry_after),
            Err(error) => error_response(&error, Some(error.retry_after())),
        };
        self.record(Method::UploadsAsJson, &response, began);
        response
    }

    /// Identifies the caller of a lookup in a request that `began` then.
    fn caller<'a>(&'a self, peer: Peer, headers: &'a HeaderMap, began: Instant) -> impl Fn() -> Caller + 'a {
        let deadline = began.checked_add(self.deadline);
        move || self.service.callers.caller(peer, headers, deadline)
    }

    /// Runs all that a request waits for, a name and a lookup, within one deadline.
    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        // Pinned here, since moving it takes longer than a hit.
        timeout(self.deadline, pin!(work))
            .await
            .unwrap_or(Err(CallError::Deadline))
    }

    /// The ID of the channel in a path. What looks like one is checked with the rest of the request.
    async fn channel_id(&self, channel: String, caller: &impl Fn() -> Caller) -> Result<String, CallError> {
        if channel.starts_with("UC") {
            return Ok(channel);
        }
        // Boxed, so that requests with an ID, nearly all, do not carry its size.
        let resolved = Box::pin(self.service.resolve(&channel, caller()));
        Ok(resolved.await?.id.to_string())
    }

    /// The response with an answer of this age; without the body if the request has its `tag` in `If-None-Match`.
    fn success(
        &self,
        json: Vec<u8>,
        tag: HeaderValue,
        age: Option<Duration>,
        asked: &HeaderMap,
    ) -> Response<Bytes> {
        let mut response = if has_tag(asked, &tag) {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            json_response(StatusCode::OK, json)
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, tag);
        if let Some(age) = age {
            // Rounded up, since `ttl` is rounded down, so that their sum is `max-age`.
            let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
            headers.insert(header::AGE, seconds.into());
        }
        headers.insert(header::CACHE_CONTROL, self.cache_control.clone());
        response
    }
}

/// What is before and after `freshness` in a page of uploads. A title has no such text: its quotes are escaped.
fn around_freshness(json: &str) -> [&[u8]; 2] {
    let around = json.rsplit_once("\"freshness\":{");
    let (before, rest) = around.unwrap_or((json, ""));
    let (_freshness, after) = rest.split_once('}').unwrap_or_default();
    [before.as_bytes(), after.as_bytes()]
}

/// Whether `If-None-Match` has this tag, or is `*`. Tags are compared weakly: RFC 9110, section 13.1.2.
fn has_tag(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    fn opaque(tag: &[u8]) -> &[u8] {
        tag.strip_prefix(b"W/").unwrap_or(tag)
    }
    let values = asked.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tags.any(|one| one.trim_ascii() == b"*" || opaque(one.trim_ascii()) == opaque(tag.as_bytes()))
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

fn list_request(
    channel_id: String,
    parameters: Vec<(String, String)>,
) -> Result<v1::ListUploadsRequest, RequestError> {
    let mut list = v1::ListUploadsRequest::default();
    let mut others = vec![];
    for (name, value) in parameters {
        match name.as_str() {
            "page_size" | "pageSize" => {
                list.page_size = value.parse().map_err(|_| RequestError::InvalidPageSize)?;
            }
            "page_token" | "pageToken" => list.page_token = value,
            _ => others.push((name, value)),
        }
    }
    let common = request(channel_id, others)?;
    Ok(v1::ListUploadsRequest {
        channel_id: common.channel_id,
        kind: common.kind,
        max_age: common.max_age,
        ..list
    })
}

/// An error response, with a `google.rpc.Status` as JSON.
pub(super) fn error_response(error: &CallError, pause: Option<Duration>) -> Response<Bytes> {
    let report = Report::new(error, pause);
    let mut response = json_response(http_status(report.code), error::to_json(&report));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(retry_after) = report.retry_after {
        let seconds = retry_after.as_millis().div_ceil(1000);
        headers.insert(
            header::RETRY_AFTER,
            u64::try_from(seconds).unwrap_or(u64::MAX).into(),
        );
    }
    response
}

/// The HTTP status that `google.rpc.Code` documents for `code`; but 405 for UNIMPLEMENTED, since nothing else is unimplemented here.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unimplemented => StatusCode::METHOD_NOT_ALLOWED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code of a response: the inverse of [`http_status`].
fn grpc_code(status: StatusCode) -> Code {
    if matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED) {
        return Code::Ok;
    }
    let found = ERRORS.into_iter().find(|code| http_status(*code) == status);
    found.unwrap_or(Code::Internal)
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
