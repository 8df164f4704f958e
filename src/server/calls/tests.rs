use std::future::{Ready, poll_fn, ready};

use futures_util::FutureExt as _;
use http_body::Body as _;
use tower::service_fn;

use super::{super::metrics::ServerMetrics, *};

fn calls<S>(inner: S, metrics: &Arc<ServerMetrics>) -> CallService<S> {
    CallService::new(
        inner,
        grpc::Limits::default(),
        Activity::new(Arc::clone(metrics), Arc::default(), false),
    )
}

fn request() -> Request<()> {
    Request::new(())
}

type Answer = Ready<Result<Response<Body>, Infallible>>;

#[test]
fn a_call_that_panics_fails_alone_and_is_no_longer_counted() {
    let metrics = Arc::new(ServerMetrics::default());
    let service = service_fn(|_request: Request<()>| {
        poll_fn(|_context| -> Poll<Result<Response<Body>, Infallible>> { panic!("a bug in a handler") })
    });
    let called = calls(service, &metrics).call(request()).now_or_never();
    let Ok(response) = called.expect("at once");
    assert_eq!(response.headers().get("grpc-status").expect("an end"), "13");
    assert_eq!(metrics.calls(), 1);
    drop(response);
    assert_eq!(metrics.calls(), 0);
}

/// A body that panics.
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
    let metrics = Arc::new(ServerMetrics::default());
    let service =
        service_fn(|_request: Request<()>| -> Answer { ready(Ok(Response::new(Body::new(Broken)))) });
    let called = calls(service, &metrics).call(request()).now_or_never();
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
