//! Compressed requests are refused as in gRPC's specification.

use http::HeaderMap;
use plaque::config;
use reqwest::Client;
use tonic::{Code, Status};

use crate::{
    raw::Raw,
    support::{CHANNEL, Fake, Server, feed, reason},
};

const METHODS: [&str; 6] = [
    "plaque.v1.LatestVideo/GetLatestVideo",
    "plaque.v1.LatestVideo/BatchGetLatestVideos",
    "plaque.v1.LatestVideo/WatchLatestVideo",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// A message that is marked as compressed.
const COMPRESSED: &[u8] = b"\x01\0\0\0\x02\x1f\x8b";

/// The end of a call to `method` with a compressed message, of which `headers` tell more.
async fn call(server: &Server, method: &str, headers: &[(&str, &str)]) -> HeaderMap {
    let mut peer = Raw::connect(server.address).await;
    let (response, mut sending) = peer.begin_with(method, headers);
    sending
        .send_data(COMPRESSED.into(), true)
        .expect("an open stream");
    let response = response.await.expect("headers");
    let ends = response.headers().clone();
    if ends.contains_key("grpc-status") {
        return ends;
    }
    let trailers = response.into_body().trailers().await;
    trailers.expect("no reset").expect("trailers")
}

fn expect_unimplemented(ends: &HeaderMap, what: &str) {
    let status = Status::from_header_map(ends).expect("an end");
    assert_eq!(status.code(), Code::Unimplemented, "{what}");
    assert_eq!(reason(&status).0, "COMPRESSED_MESSAGE", "{what}");
    assert_eq!(ends["grpc-accept-encoding"], "identity", "{what}");
}

#[tokio::test]
async fn a_compressed_message_is_unimplemented_by_every_method() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    for method in METHODS {
        for encoding in ["gzip", "deflate", "zstd", "banana"] {
            let ends = call(&server, method, &[("grpc-encoding", encoding)]).await;
            expect_unimplemented(&ends, &format!("{method}, {encoding}"));
        }
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
}

#[tokio::test]
async fn a_compressed_message_without_an_encoding_breaks_the_protocol() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    for method in &METHODS[..5] {
        for headers in [&[][..], &[("grpc-encoding", "identity")]] {
            let ends = call(&server, method, headers).await;
            assert_eq!(ends["grpc-status"], "13", "{method}, {headers:?}");
        }
    }
}

#[tokio::test]
async fn a_page_s_compressed_message_is_unimplemented() {
    let fake = Fake::open(feed).await;
    let origins = config::origins("*").expect("all");
    let server = fake.serve_with(|config| config.grpc_web = Some(origins)).await;
    let http1 = Client::builder().http1_only().build().expect("a client");
    for (encoding, code) in [("gzip", Code::Unimplemented), ("identity", Code::Internal)] {
        let call = http1
            .post(format!("http://{}/{}", server.address, METHODS[0]))
            .header("content-type", "application/grpc-web+proto")
            .header("grpc-encoding", encoding)
            .body(COMPRESSED);
        let response = call.send().await.expect("an answer");
        let status = Status::from_header_map(response.headers()).expect("an end");
        assert_eq!(status.code(), code, "{encoding}");
        if code == Code::Unimplemented {
            expect_unimplemented(response.headers(), encoding);
        }
    }
}
