use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A connection with a buffer of `room` bytes that the peer has not read.
fn connection(room: usize) -> (GoAwayStream<DuplexStream>, GoAway, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let goaway = GoAway::default();
    (GoAwayStream::new(ours, goaway.clone()), goaway, theirs)
}

async fn sent(stream: GoAwayStream<DuplexStream>, mut peer: DuplexStream) -> Vec<u8> {
    drop(stream);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).await.expect("all that was sent");
    bytes
}

#[tokio::test]
async fn goaway_is_sent_once_with_the_next_flush() {
    let (mut stream, goaway, peer) = connection(1 << 10);
    stream.write_all(SETTINGS).await.expect("room");
    stream.flush().await.expect("room");
    goaway.send();
    // The rest of a frame, which must not be split.
    stream.write_all(b"frame").await.expect("room");
    stream.flush().await.expect("room");
    stream.flush().await.expect("room");
    assert_eq!(sent(stream, peer).await, [SETTINGS, b"frame", GOAWAY].concat());
}

#[tokio::test]
async fn nothing_is_sent_before_the_settings() {
    let (mut stream, goaway, peer) = connection(1 << 10);
    goaway.send();
    stream.flush().await.expect("room");
    stream.write_all(SETTINGS).await.expect("room");
    stream.flush().await.expect("room");
    assert_eq!(sent(stream, peer).await, [SETTINGS, GOAWAY].concat());
}

#[tokio::test]
async fn http_1_gets_no_goaway() {
    let (mut stream, goaway, peer) = connection(1 << 10);
    goaway.send();
    stream.write_all(b"HTTP/1.1 200 OK").await.expect("room");
    stream.flush().await.expect("room");
    assert!(sent(stream, peer).await.starts_with(b"HTTP/1.1"));
}

#[tokio::test]
async fn goaway_is_sent_whole_through_a_full_buffer() {
    let (mut stream, goaway, mut peer) = connection(SETTINGS.len() + 5);
    stream.write_all(SETTINGS).await.expect("room");
    goaway.send();
    let flushed =
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut stream).poll_flush(context))).await;
    assert!(flushed.is_pending(), "there was room for 5 bytes of it");
    let reads = async {
        let mut bytes = vec![0; SETTINGS.len() + GOAWAY.len() + 5];
        peer.read_exact(&mut bytes).await.expect("as many bytes");
        bytes
    };
    let (written, bytes) = tokio::join!(stream.write_all(b"frame"), reads);
    written.expect("a peer that reads");
    assert_eq!(bytes, [SETTINGS, GOAWAY, b"frame"].concat());
}
