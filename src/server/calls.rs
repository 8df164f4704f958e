//! The service around every call: counts it, rejects it at the limits, and turns panics into INTERNAL.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::service::Service;
use pin_project_lite::pin_project;
use prost::bytes::Bytes;
use tonic::{Status, body::Body};

use super::{
    activity::{Activity, CallClass},
    inline_executor,
    span::CallSpan,
};
use crate::{
    grpc::{self, CallError, Ended, Method},
    latest::OVERLOAD_PAUSE,
};

/// Counts a call as in progress until it is dropped, which records how it ended.
#[derive(Debug)]
struct CallGuard {
    activity: Arc<Activity>,
    method: Method,
    started: Instant,
    /// CANCELLED until headers or trailers with a status are sent.
    ended: Ended,
    /// `None` for a rejected call.
    class: Option<CallClass>,
    span: CallSpan,
}

impl CallGuard {
    /// Records the status and the cache status of response headers or trailers.
    fn record_headers(&mut self, headers: &HeaderMap) {
        self.span.record_headers(headers);
        self.ended = Ended::from_headers(headers).unwrap_or(self.ended);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity
            .call_metrics
            .record_call(self.method, self.ended, self.started.elapsed());
        if let Some(class) = self.class {
            activity.end_call(class);
        }
        self.span.end(self.ended);
    }
}

fn in_span<T>(guard: Option<&CallGuard>, part: impl FnOnce() -> T) -> T {
    match guard {
        Some(guard) => guard.span.in_scope(part),
        None => part(),
    }
}

/// The calls of one connection to `inner`.
#[derive(Debug)]
pub(super) struct CallService<S> {
    inner: S,
    limits: grpc::Limits,
    activity: Arc<Activity>,
}

impl<S> CallService<S> {
    pub(super) fn new(inner: S, limits: grpc::Limits, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            limits,
            activity,
        }
    }
}

impl<S, B> Service<Request<B>> for CallService<S>
where
    // Always ready, so `poll_ready` is not called.
    S: tower::Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let span = CallSpan::new(method, &request);
        let admitted = self.activity.start_call(method, self.limits);
        let rejection = admitted.as_ref().err().map(|error| {
            Box::new(grpc::refuse_at_once(
                error.clone(),
                OVERLOAD_PAUSE,
                request.headers(),
            ))
        });
        let guard = CallGuard {
            activity: Arc::clone(&self.activity),
            method,
            started: Instant::now(),
            ended: Ended::CANCELLED,
            class: admitted.ok(),
            span,
        };
        let send_timeout = if method.is_stream() {
            self.limits.watch.map(|watch| watch + self.limits.deadline)
        } else {
            Some(self.limits.deadline)
        };
        ResponseFuture {
            inner: guard.class.map(|_| self.inner.clone().call(request)),
            rejection,
            guard: Some(guard),
            send_timeout,
        }
    }
}

pin_project! {
    /// A call until its response headers.
    pub(super) struct ResponseFuture<F> {
        // `None` if the call is rejected.
        #[pin]
        inner: Option<F>,
        // Moves to the response body.
        guard: Option<CallGuard>,
        rejection: Option<Box<Response<Body>>>,
        send_timeout: Option<Duration>,
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let guard = this.guard.as_ref();
        let response = match this.inner.as_pin_mut() {
            None => match this.rejection.take() {
                Some(rejection) => *rejection,
                // Polled after completion.
                None => return Poll::Pending,
            },
            Some(inner) => match catch_unwind(AssertUnwindSafe(|| in_span(guard, || inner.poll(context)))) {
                Ok(response) => match ready!(response) {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                Err(_panic) => panic_status(guard).into_http(),
            },
        };
        inline_executor::start_send_timeout(*this.send_timeout);
        let mut guard = this.guard.take();
        if let Some(guard) = &mut guard {
            guard.record_headers(response.headers());
        }
        Poll::Ready(Ok(response.map(|inner| ResponseBody {
            inner,
            failed: false,
            unsent: Bytes::new(),
            guard,
        })))
    }
}

/// The status after a panic. The panic hook has just logged the panic itself, but without the method: spans of calls are `debug`.
fn panic_status(guard: Option<&CallGuard>) -> Status {
    let method = guard.map(|guard| guard.method.name());
    tracing::error_span!("call", method).in_scope(|| {
        tracing::error!("panicked; ends with INTERNAL");
    });
    grpc::status(CallError::Panicked, None)
}

pin_project! {
    /// A response body. The call is in progress until it is dropped.
    pub(super) struct ResponseBody {
        #[pin]
        inner: Body,
        // By a panic.
        failed: bool,
        // The rest of the last message.
        unsent: Bytes,
        guard: Option<CallGuard>,
    }
}

/// The send buffer of an HTTP/2 stream. A single message is buffered whole, whatever its size. Of a watch's first events only as many
/// are buffered as fit, so that many watches that start at once do not have all of them in memory.
pub(super) const STREAM_BUFFER: usize = 4 << 10;

/// The longest DATA frame that h2 copies into its write buffer, together with other responses. A longer frame ends a write.
const CHUNK_BYTES: usize = 1023;

/// Longer messages are sent in one frame, which is cheaper than chunks that do not all fit into the send buffer.
const MAX_CHUNKED_BYTES: usize = STREAM_BUFFER / CHUNK_BYTES * CHUNK_BYTES;

/// Splits off the next DATA frame of a message.
fn next_chunk(message: &mut Bytes) -> Bytes {
    let length = if message.len() > MAX_CHUNKED_BYTES {
        message.len()
    } else {
        message.len().min(CHUNK_BYTES)
    };
    message.split_to(length)
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if !this.unsent.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(next_chunk(this.unsent)))));
        }
        if *this.failed {
            return Poll::Ready(None);
        }
        let guard = this.guard.as_ref();
        let frame = catch_unwind(AssertUnwindSafe(|| {
            in_span(guard, || this.inner.poll_frame(context))
        }));
        let frame = frame.unwrap_or_else(|_panic| {
            *this.failed = true;
            let mut trailers = HeaderMap::new();
            let added = panic_status(guard).add_header(&mut trailers);
            Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
        });
        if let (Poll::Ready(Some(Ok(frame))), Some(guard)) = (&frame, this.guard)
            && let Some(trailers) = frame.trailers_ref()
        {
            guard.record_headers(trailers);
        }
        frame.map_ok(|frame| {
            frame.map_data(|mut message| {
                let first = next_chunk(&mut message);
                *this.unsent = message;
                first
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.unsent.is_empty() && (self.failed || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let (unsent, mut hint) = (self.unsent.len() as u64, self.inner.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + unsent);
        }
        hint.set_lower(hint.lower() + unsent);
        hint
    }
}

#[cfg(test)]
mod tests;
