//! An HTTP/2 client that controls what it reads, and when.

use std::net::SocketAddr;

use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{Method, Request, Response};
use prost::{
    Message,
    bytes::{BufMut as _, Bytes, BytesMut},
};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, yield_now},
};

/// What every HTTP/2 client says first, and settings that change nothing.
pub const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A ping.
pub const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0 plaque!";

/// Bodies of calls with no message that can be read, and what each is. They fit all methods: the first field of each request is text.
pub const MALFORMED: &[(&[u8], &str)] = &[
    (b"\0\0\0\0\x06\x0a\x04UC\xff\xfe", "text that is not UTF-8"),
    (b"\0\0\0\0\x04\x0a\x18UC", "text that is cut off"),
    (b"\0\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff", "no protobuf"),
    (b"\0\0\0\0\x1a\x0a\x18UC", "a message that is cut off"),
    (b"\0\0\0", "a header that is cut off"),
    (b"", "no message"),
];

/// A connection, and the task that drives it, which ends when the server ends it.
pub struct Raw {
    send: SendRequest<Bytes>,
    pub running: JoinHandle<Result<(), h2::Error>>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &Builder::new()).await
    }

    /// A peer that has no room for any data.
    pub async fn unreading(address: SocketAddr) -> Self {
        Self::connect_with(address, Builder::new().initial_window_size(0)).await
    }

    async fn connect_with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("accepted");
        let (send, connection) = builder.handshake(stream).await.expect("a handshake");
        Self {
            send,
            running: tokio::spawn(connection),
        }
    }

    /// Begins a gRPC call, whose message is yet to be sent.
    pub fn begin(&mut self, method: &str) -> (ResponseFuture, SendStream<Bytes>) {
        self.begin_with(method, &[])
    }

    /// The same, with headers of its own.
    pub fn begin_with(
        &mut self,
        method: &str,
        headers: &[(&str, &str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://plaque/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        self.send.send_request(request, false).expect("room for a call")
    }

    /// Begins a gRPC call, and sends its message.
    pub fn start(&mut self, method: &str, message: &impl Message) -> ResponseFuture {
        let mut body = BytesMut::new();
        body.put_u8(0); // not compressed
        body.put_u32(message.encoded_len().try_into().expect("a short message"));
        message.encode(&mut body).expect("room enough");
        let (response, mut sending) = self.begin(method);
        sending.send_data(body.freeze(), true).expect("an open stream");
        response
    }

    /// Calls with `body`, whatever that is.
    pub async fn call_with(&mut self, method: &str, body: impl Into<Bytes>) -> Response<RecvStream> {
        let (response, mut sending) = self.begin(method);
        sending.send_data(body.into(), true).expect("an open stream");
        response.await.expect("headers")
    }

    pub async fn call(&mut self, method: &str, message: &impl Message) -> Response<RecvStream> {
        self.start(method, message).await.expect("headers")
    }

    /// How many calls the server lets be in progress. It says so before it answers the first.
    pub fn streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Waits until the server has told us to go.
    pub async fn told_to_go(&self) {
        while self.send.clone().ready().await.is_ok() {
            yield_now().await;
        }
    }
}
