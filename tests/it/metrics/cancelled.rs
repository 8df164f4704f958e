//! Calls whose callers leave.

use plaque::config;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::yield_now};

use super::metrics;
use crate::{
    raw::Raw,
    support::{CHANNEL, Fake, Server, feed, request},
};

/// Waits until so many calls are in progress.
async fn in_progress(server: &Server, calls: u64) {
    while metrics(server).await.get("plaque_calls") != calls {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_call_that_its_caller_cancels_is_counted_as_cancelled() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let calls = server.client().start_many(CHANNEL, 1).await;
    fake.arrival().await;
    for call in &calls {
        call.abort();
    }
    in_progress(&server, 0).await;
    assert_eq!(metrics(&server).await.calls("GetLatestVideo", "CANCELLED"), 1);
}

#[tokio::test]
async fn calls_in_progress_when_their_connection_ends_are_counted_as_cancelled() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let mut peer = Raw::connect(server.address).await;
    let methods = [
        "GetLatestVideo",
        "BatchGetLatestVideos",
        "WatchLatestVideo",
        "ListUploads",
        "ResolveChannel",
    ];
    // The server waits for their messages.
    let _begun = methods.map(|method| peer.begin(&format!("plaque.v1.LatestVideo/{method}")));
    let _started = peer.start("plaque.v1.LatestVideo/GetLatestVideo", &request(CHANNEL));
    fake.arrival().await;
    in_progress(&server, 6).await;
    peer.running.abort();
    in_progress(&server, 0).await;
    let told = metrics(&server).await;
    let cancelled = methods.map(|method| told.calls(method, "CANCELLED"));
    assert_eq!(cancelled, [2, 1, 1, 1, 1]);
}

#[tokio::test]
async fn an_answer_that_is_not_read_before_the_connection_ends_is_counted_as_cancelled() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut peer = Raw::unreading(server.address).await;
    let _unread = peer
        .call("plaque.v1.LatestVideo/GetLatestVideo", &request(CHANNEL))
        .await;
    peer.running.abort();
    in_progress(&server, 0).await;
    assert_eq!(metrics(&server).await.calls("GetLatestVideo", "CANCELLED"), 1);
}

#[tokio::test]
async fn a_page_that_leaves_before_its_request_is_sent_is_counted_as_cancelled() {
    let fake = Fake::open(feed).await;
    let origins = config::origins("https://app.example").expect("an origin");
    let server = fake.serve_with(|config| config.grpc_web = Some(origins)).await;
    let mut page = TcpStream::connect(server.address).await.expect("accepted");
    let begun = "POST /plaque.v1.LatestVideo/GetLatestVideo HTTP/1.1\r\nhost: plaque\r\n\
                 content-type: application/grpc-web+proto\r\ncontent-length: 31\r\n\r\n";
    page.write_all(begun.as_bytes()).await.expect("sent");
    in_progress(&server, 1).await;
    drop(page);
    in_progress(&server, 0).await;
    assert_eq!(metrics(&server).await.calls("GetLatestVideo", "CANCELLED"), 1);
}
