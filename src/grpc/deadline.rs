//! Deadlines: a layer that ends each call in time.
//!
//! tonic's own server answers CANCELLED when a deadline passes, where gRPC specifies DEADLINE_EXCEEDED, and ignores a malformed
//! `grpc-timeout`. This layer wraps all services. It limits the time to the response headers, which for a unary call is the whole call;
//! a watch has its own limit. A call without a deadline gets the longest that is allowed.
//!
//! The layer also limits pushbacks: one that would outlast the caller's deadline becomes -1 (gRFC A6: do not retry), since a client with a
//! retry policy would wait for the rest of its time and fail anyway. `RetryInfo` still has the time.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tower::Service;

use super::{CallError, RequestError, status};

/// A service whose calls end at their deadline.
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    longest: Duration,
}

impl<S> DeadlineService<S> {
    /// Wraps `inner`; its calls take no longer than `longest`.
    pub fn new(inner: S, longest: Duration) -> Self {
        Self { inner, longest }
    }

    /// The wrapped service.
    pub(super) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let requested = timeout(request.headers());
        let allowed = requested.as_ref().ok().copied().flatten().unwrap_or(self.longest);
        Call {
            inner: self.inner.call(request),
            allowed: allowed.min(self.longest),
            deadline: None,
            malformed: requested.is_err(),
            requested: requested.ok().flatten(),
        }
    }
}

pin_project! {
    /// A call that ends at its deadline.
    pub struct Call<F> {
        #[pin]
        inner: F,
        allowed: Duration,
        // Created when the call has to wait. Most do not.
        #[pin]
        deadline: Option<Sleep>,
        malformed: bool,
        // The caller's timeout.
        requested: Option<Duration>,
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        if *this.malformed {
            return Poll::Ready(Ok(refused(RequestError::InvalidTimeout)));
        }
        // The call first: a response that is there in time is sent.
        if let Poll::Ready(response) = this.inner.poll(context) {
            return Poll::Ready(response.map(|mut response| {
                // Only errors have no body, so that other responses do not pay for the check.
                if let Some(requested) = *this.requested
                    && response.body().is_end_stream()
                {
                    let waited = this
                        .deadline
                        .as_ref()
                        .as_pin_ref()
                        .map_or(Duration::ZERO, |sleep| {
                            let left = sleep.deadline().saturating_duration_since(Instant::now());
                            this.allowed.saturating_sub(left)
                        });
                    limit_pushback(&mut response, requested.saturating_sub(waited));
                }
                response
            }));
        }
        if this.deadline.is_none() {
            this.deadline.set(Some(tokio::time::sleep(*this.allowed)));
        }
        match this.deadline.as_pin_mut().map(|sleep| sleep.poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Ok(refused(CallError::Deadline))),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

fn refused(error: impl Into<CallError>) -> Response<Body> {
    status::from(error, None).into_http()
}

/// Replaces a pushback that would outlast the time that the caller has `left`.
fn limit_pushback(response: &mut Response<Body>, left: Duration) {
    let Some(pushback) = response.headers_mut().get_mut(status::PUSHBACK) else {
        return;
    };
    let milliseconds = pushback.to_str().ok().and_then(|text| text.parse().ok());
    if milliseconds.is_some_and(|milliseconds| Duration::from_millis(milliseconds) >= left) {
        *pushback = HeaderValue::from_static("-1");
    }
}

/// The response to a call that is refused on arrival, before it reaches `DeadlineService`. `headers` are those of the request.
#[must_use]
pub fn refuse_at_once(error: CallError, retry_after: Duration, headers: &HeaderMap) -> Response<Body> {
    let mut response = status::from(error, Some(retry_after)).into_http();
    if let Ok(Some(requested)) = timeout(headers) {
        limit_pushback(&mut response, requested);
    }
    response
}

/// How long before its deadline a batch is answered: enough for most responses to reach the caller in time.
const BATCH_MARGIN: Duration = Duration::from_millis(50);

/// When a batch is answered with the results so far: shortly before the deadline of the call, which would discard them all.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchDeadline {
    started_at: Instant,
    time: Duration,
}

impl BatchDeadline {
    /// For a call that starts now. A malformed `grpc-timeout` is refused by [`DeadlineService`].
    pub(super) fn new(headers: &HeaderMap, longest: Duration) -> Self {
        let requested = timeout(headers).ok().flatten();
        Self {
            started_at: Instant::now(),
            time: with_margin(requested.unwrap_or(longest).min(longest)),
        }
    }

    /// The deadline; `None` if it is later than an [`Instant`] can be.
    pub(super) fn at(&self) -> Option<Instant> {
        self.started_at.checked_add(self.time)
    }

    /// The time left.
    pub(super) fn left(&self) -> Duration {
        self.time.saturating_sub(self.started_at.elapsed())
    }
}

/// `allowed` less [`BATCH_MARGIN`], or less half of it if that is shorter.
fn with_margin(allowed: Duration) -> Duration {
    allowed.saturating_sub(BATCH_MARGIN.min(allowed / 2))
}

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidTimeout;

/// The `grpc-timeout` header: 1 to 8 digits and a unit.
///
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let amount = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_hours(amount),
        b'M' => Duration::from_mins(amount),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(InvalidTimeout),
    }))
}

#[cfg(test)]
mod tests;
