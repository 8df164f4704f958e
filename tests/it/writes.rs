//! How many writes answers take: those to calls that arrived together are sent together, whatever their size.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use h2::client::SendRequest;
use http::Request;
use plaque::{
    config::Connections,
    grpc,
    grpc::lifecycle::Stage,
    latest::Latest,
    proto::v1::BatchGetLatestVideosRequest,
    resolver::Resolver,
    server,
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::{Channel, Kind, Upload},
};
use prost::{Message as _, bytes::Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    runtime::Handle,
    sync::watch,
};

use crate::support::{self, CHANNEL};

/// Calls that come together.
const CALLS: usize = 10;

/// A turn ends when the clock says so, and makes four calls at least: on a slow machine the answers come in up to three turns, each of
/// which ends with a write.
const FURTHER_TURNS: usize = CALLS.div_ceil(4) - 1;

/// Knows one upload of every channel, with a title of so many bytes.
struct Titled(usize);

impl Upstream for Titled {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        let upload = Upload {
            id: "0123456789A".parse().expect("a video ID"),
            kind: Kind::Video,
            title: "t".repeat(self.0),
            published: None,
            updated: None,
            thumbnail: None,
            views: None,
        };
        async move { Ok(Channel::new(feed.channel, "A channel", vec![upload])) }.boxed()
    }

    fn time_limit(&self) -> Duration {
        support::LONG
    }
}

/// Counts writes, of which it offers the vectored kind as a socket does.
struct Counted {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// A client of a server that knows [`Titled`] channels, and the server's writes.
async fn connect(title: usize) -> (SendRequest<Bytes>, Arc<AtomicUsize>) {
    let latest = Latest::new(
        Arc::new(Titled(title)),
        None,
        support::settings(),
        Handle::current(),
    );
    let resolver = Resolver::new(
        vec![],
        None,
        plaque::youtube::Pace::default(),
        1,
        Handle::current(),
    );
    let (stage, stages) = watch::channel(Stage::Serving);
    let (calls, callers) = (grpc::Limits::default(), Arc::new(grpc::Callers::new(None)));
    let service = grpc::service(Arc::new(latest), resolver, calls, callers, stages, Arc::default())
        .expect("descriptors");
    let (client, inner) = duplex(1 << 22);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counted {
        inner,
        writes: Arc::clone(&writes),
    };
    tokio::spawn(async move {
        server::serve_connection(stream, service, calls, Connections::default()).await;
        drop(stage);
    });
    // Room for all answers at once.
    let mut http = h2::client::Builder::new();
    http.initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24);
    let (requests, connection) = http.handshake(client).await.expect("HTTP/2");
    tokio::spawn(connection);
    (requests.ready().await.expect("a connection"), writes)
}

/// Makes so many calls of one method at once. Returns the bytes of each answer.
async fn call(requests: &mut SendRequest<Bytes>, method: &str, message: &[u8], times: usize) -> Vec<usize> {
    let framed = [
        &[0],
        &u32::to_be_bytes(message.len().try_into().expect("short"))[..],
        message,
    ]
    .concat();
    let framed = Bytes::from(framed);
    let begun: Vec<_> = (0..times)
        .map(|_| {
            let request = Request::post(format!("http://plaque/plaque.v1.LatestVideo/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let request = request.body(()).expect("a request");
            let (answer, mut body) = requests.send_request(request, false).expect("a stream");
            body.send_data(framed.clone(), true).expect("room");
            answer
        })
        .collect();
    let mut lengths = vec![];
    for answer in begun {
        let mut body = answer.await.expect("an answer").into_body();
        let mut length = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.expect("a piece");
            body.flow_control()
                .release_capacity(piece.len())
                .expect("room again");
            length += piece.len();
        }
        let trailers = body.trailers().await.expect("an end").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        lengths.push(length);
    }
    lengths
}

#[tokio::test]
async fn answers_to_calls_that_came_together_leave_together_whatever_their_size() {
    let message = support::request(CHANNEL).encode_to_vec();
    for title in [1, 100, 150, 160, 200, 300, 600, 900, 950, 1024] {
        let (mut requests, writes) = connect(title).await;
        let [length] = call(&mut requests, "GetLatestVideo", &message, 1).await[..] else {
            panic!("not one answer");
        };
        assert!(length > title);
        let before = writes.load(Relaxed);
        let lengths = call(&mut requests, "GetLatestVideo", &message, CALLS).await;
        assert_eq!(lengths, [length; CALLS]);
        let written = writes.load(Relaxed) - before;
        assert!(
            written <= 2 + FURTHER_TURNS,
            "{CALLS} answers of {length} bytes took {written} writes"
        );
    }
}

#[tokio::test]
async fn long_answers_take_a_write_each_at_most() {
    let (mut requests, writes) = connect(1000).await;
    for channels in [3, 4, 5, 8, 20, 100] {
        let ids = (0..channels).map(|number| format!("UC{number:010}abcdefghijkA"));
        let request = BatchGetLatestVideosRequest {
            channel_ids: ids.collect(),
            ..BatchGetLatestVideosRequest::default()
        };
        let message = request.encode_to_vec();
        let [length] = call(&mut requests, "BatchGetLatestVideos", &message, 1).await[..] else {
            panic!("not one answer");
        };
        assert!(length > channels * 1000);
        let before = writes.load(Relaxed);
        let lengths = call(&mut requests, "BatchGetLatestVideos", &message, CALLS).await;
        assert_eq!(lengths, [length; CALLS]);
        let written = writes.load(Relaxed) - before;
        // A frame has 16 KiB at most, and so has h2's buffer.
        let frames = length.div_ceil(16 << 10);
        assert!(
            // And the last trailers.
            written <= CALLS * frames + 1 + FURTHER_TURNS,
            "{CALLS} answers of {length} bytes took {written} writes"
        );
    }
}
