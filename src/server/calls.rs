//! A call's place in the server: counted, refused where there are too many, and answered even if it panics.

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
    activity::{Activity, Taken},
    span::CallSpan,
    turn,
};
use crate::{
    grpc::{self, CallError, Ended, Method},
    latest::OVERLOAD_PAUSE,
};

/// A call that is in progress as long as this is there.
#[derive(Debug)]
struct Place {
    activity: Arc<Activity>,
    method: Method,
    begun: Instant,
    /// Told before the answer's end is sent.
    ended: Ended,
    /// Nothing by a call that is refused.
    taken: Option<Taken>,
    span: CallSpan,
}

impl Place {
    /// Notes what the headers of an answer or its trailers say: with the status that is in one of them the call ends.
    fn hear(&mut self, headers: &HeaderMap) {
        self.span.note(headers);
        self.ended = Ended::from_headers(headers).unwrap_or(self.ended);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity
            .tally
            .record_call(self.method, self.ended, self.begun.elapsed());
        if let Some(taken) = self.taken {
            activity.end(taken);
        }
        self.span.end(self.ended);
    }
}

/// Runs a part of a call in its span.
fn within<T>(place: Option<&Place>, part: impl FnOnce() -> T) -> T {
    match place {
        Some(place) => place.span.in_scope(part),
        None => part(),
    }
}

/// One connection's calls to `inner`.
#[derive(Debug)]
pub(super) struct Calls<S> {
    inner: S,
    limits: grpc::Limits,
    activity: Arc<Activity>,
}

impl<S> Calls<S> {
    pub(super) fn new(inner: S, limits: grpc::Limits, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            limits,
            activity,
        }
    }
}

impl<S, B> Service<Request<B>> for Calls<S>
where
    // Always ready: nothing in it waits for room.
    S: tower::Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let span = CallSpan::begin(method, &request);
        let begun = self.activity.begin(method, self.limits);
        let refused = begun.as_ref().err().map(|error| {
            Box::new(grpc::refuse_at_once(
                error.clone(),
                OVERLOAD_PAUSE,
                request.headers(),
            ))
        });
        let place = Place {
            activity: Arc::clone(&self.activity),
            method,
            begun: Instant::now(),
            ended: Ended::CANCELLED,
            taken: begun.ok(),
            span,
        };
        let sending = if method.is_stream() {
            self.limits.watch.map(|watch| watch + self.limits.deadline)
        } else {
            Some(self.limits.deadline)
        };
        Call {
            inner: place.taken.map(|_| self.inner.clone().call(request)),
            refused,
            place: Some(place),
            sending,
        }
    }
}

pin_project! {
    /// A call until its answer begins.
    pub(super) struct Call<F> {
        // None if the call is refused.
        #[pin]
        inner: Option<F>,
        // None once its answer has begun.
        place: Option<Place>,
        // What it is told then.
        refused: Option<Box<Response<Body>>>,
        sending: Option<Duration>,
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<CallBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let place = this.place.as_ref();
        let response = match this.inner.as_pin_mut() {
            None => match this.refused.take() {
                Some(refused) => *refused,
                // Only if it is polled again after its end.
                None => return Poll::Pending,
            },
            Some(inner) => match catch_unwind(AssertUnwindSafe(|| within(place, || inner.poll(context)))) {
                Ok(response) => match ready!(response) {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                Err(_panic) => panicked(place).into_http(),
            },
        };
        turn::answer_begins(*this.sending);
        let mut place = this.place.take();
        if let Some(place) = &mut place {
            place.hear(response.headers());
        }
        Poll::Ready(Ok(response.map(|inner| CallBody {
            inner,
            ended: false,
            rest: Bytes::new(),
            place,
        })))
    }
}

/// What the caller is told of a panic. The panic itself was logged where it happened, just before, without the span: calls have
/// none as long as they go well.
fn panicked(place: Option<&Place>) -> Status {
    let method = place.map(|place| place.method.name());
    tracing::error_span!("call", method).in_scope(|| {
        tracing::error!("panicked; ends with INTERNAL");
    });
    grpc::status(CallError::Panicked, None)
}

pin_project! {
    /// A call's answer. The call is in progress until it is sent.
    pub(super) struct CallBody {
        #[pin]
        inner: Body,
        // By a panic.
        ended: bool,
        // What has not been sent of the last piece.
        rest: Bytes,
        place: Option<Place>,
    }
}

/// What a stream may have waiting for its connection. A single answer is taken whole, whatever its size; of a watch's first events only
/// as many as fit, so that many watches that begin at once do not have all of theirs in memory.
pub(super) const STREAM_BUFFER: usize = 4 << 10;

/// As much of a message as h2 copies into what it writes next, together with other calls' answers: a longer DATA frame is the end of a
/// write.
const PIECE: usize = 1023;

/// A longer message is sent in one piece, which is the cheaper way: what a stream may have waiting would not take all of its pieces at once.
const LONG: usize = STREAM_BUFFER / PIECE * PIECE;

/// The next piece to be sent of a message.
fn piece(of: &mut Bytes) -> Bytes {
    let length = if of.len() > LONG {
        of.len()
    } else {
        of.len().min(PIECE)
    };
    of.split_to(length)
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(piece(this.rest)))));
        }
        if *this.ended {
            return Poll::Ready(None);
        }
        let place = this.place.as_ref();
        let frame = catch_unwind(AssertUnwindSafe(|| {
            within(place, || this.inner.poll_frame(context))
        }));
        let frame = frame.unwrap_or_else(|_panic| {
            *this.ended = true;
            let mut trailers = HeaderMap::new();
            let added = panicked(place).add_header(&mut trailers);
            Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
        });
        if let (Poll::Ready(Some(Ok(frame))), Some(place)) = (&frame, this.place)
            && let Some(trailers) = frame.trailers_ref()
        {
            place.hear(trailers);
        }
        frame.map_ok(|frame| {
            frame.map_data(|mut message| {
                let first = piece(&mut message);
                *this.rest = message;
                first
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.inner.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, poll_fn, ready};

    use futures_util::FutureExt as _;
    use http_body::Body as _;
    use tower::service_fn;

    use super::{super::load::Load, *};

    fn calls<S>(inner: S, load: &Arc<Load>) -> Calls<S> {
        Calls::new(
            inner,
            grpc::Limits::default(),
            Activity::new(Arc::clone(load), Arc::default(), false),
        )
    }

    fn request() -> Request<()> {
        Request::new(())
    }

    type Answer = Ready<Result<Response<Body>, Infallible>>;

    #[test]
    fn a_call_that_panics_fails_alone_and_leaves_its_place() {
        let load = Arc::new(Load::default());
        let service = service_fn(|_request: Request<()>| {
            poll_fn(|_context| -> Poll<Result<Response<Body>, Infallible>> { panic!("a bug in a handler") })
        });
        let called = calls(service, &load).call(request()).now_or_never();
        let Ok(response) = called.expect("at once");
        assert_eq!(response.headers().get("grpc-status").expect("an end"), "13");
        assert_eq!(load.calls(), 1);
        drop(response);
        assert_eq!(load.calls(), 0);
    }

    /// A stream of messages that breaks.
    struct Broken;

    impl http_body::Body for Broken {
        type Data = prost::bytes::Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
            panic!("a bug in a stream")
        }
    }

    #[test]
    fn a_stream_that_panics_ends_with_trailers() {
        let load = Arc::new(Load::default());
        let service =
            service_fn(|_request: Request<()>| -> Answer { ready(Ok(Response::new(Body::new(Broken)))) });
        let called = calls(service, &load).call(request()).now_or_never();
        let Ok(mut response) = called.expect("at once");
        let mut body = Pin::new(response.body_mut());
        let context = &mut Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(context) else {
            panic!("no frame");
        };
        let trailers = frame.into_trailers().expect("trailers");
        assert_eq!(trailers.get("grpc-status").expect("an end"), "13");
        assert!(body.is_end_stream());
        assert!(body.poll_frame(context).map(|frame| frame.is_none()) == Poll::Ready(true));
    }
}
