use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A connection that has room for `room` bytes which its peer has not read.
fn connection(room: usize) -> (Noticing<DuplexStream>, Notice, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let notice = Notice::default();
    (Noticing::new(ours, notice.clone()), notice, theirs)
}

async fn sent(stream: Noticing<DuplexStream>, mut peer: DuplexStream) -> Vec<u8> {
    drop(stream);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).await.expect("all that was sent");
    bytes
}

#[tokio::test]
async fn a_notice_is_sent_once_with_the_next_flush() {
    let (mut stream, notice, peer) = connection(1 << 10);
    stream.write_all(SETTINGS).await.expect("room");
    stream.flush().await.expect("room");
    notice.give();
    // The rest of a frame, which nothing may cut in two.
    stream.write_all(b"frame").await.expect("room");
    stream.flush().await.expect("room");
    stream.flush().await.expect("room");
    assert_eq!(sent(stream, peer).await, [SETTINGS, b"frame", GOAWAY].concat());
}

#[tokio::test]
async fn nothing_is_sent_before_the_settings() {
    let (mut stream, notice, peer) = connection(1 << 10);
    notice.give();
    stream.flush().await.expect("room");
    stream.write_all(SETTINGS).await.expect("room");
    stream.flush().await.expect("room");
    assert_eq!(sent(stream, peer).await, [SETTINGS, GOAWAY].concat());
}

#[tokio::test]
async fn http_1_has_no_notice() {
    let (mut stream, notice, peer) = connection(1 << 10);
    notice.give();
    stream.write_all(b"HTTP/1.1 200 OK").await.expect("room");
    stream.flush().await.expect("room");
    assert!(sent(stream, peer).await.starts_with(b"HTTP/1.1"));
}

#[tokio::test]
async fn a_notice_that_finds_little_room_is_sent_whole() {
    let (mut stream, notice, mut peer) = connection(SETTINGS.len() + 5);
    stream.write_all(SETTINGS).await.expect("room");
    notice.give();
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
