//! gRPC-Web: calls from browsers.

use plaque::{
    config,
    proto::v1::{GetLatestVideoResponse, WatchLatestVideoRequest},
};
use prost::Message;
use reqwest::{Body, Client, Method, Response, Version};
use tonic::{Code, Status};

use crate::{
    raw::MALFORMED,
    support::{CHANNEL, Fake, Server, feed, http_get, reason, request},
};

/// An origin that may call, and one that may not.
const OURS: &str = "https://app.example";
const THEIRS: &str = "https://other.example";

async fn serve(fake: &Fake) -> Server {
    let origins = config::origins(OURS).expect("an origin");
    fake.serve_with(|config| config.grpc_web = Some(origins)).await
}

/// A message with its header of five bytes.
fn framed(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), &encoded].concat()
}

/// The frames of an answer: their flags, and what is in them.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = body.split_first_chunk::<5>() {
        let [flags, length @ ..] = *header;
        let (frame, rest) = rest.split_at(u32::from_be_bytes(length) as usize);
        frames.push((flags, frame.to_vec()));
        body = rest;
    }
    frames
}

async fn call(client: Client, server: &Server, method: &str, message: &impl Message) -> Response {
    call_with(client, server, method, framed(message)).await
}

async fn call_with(client: Client, server: &Server, method: &str, body: impl Into<Body>) -> Response {
    let url = format!("http://{}/plaque.v1.LatestVideo/{method}", server.address);
    let call = client
        .post(url)
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("origin", OURS)
        .body(body);
    call.send().await.expect("an answer")
}

/// Over HTTP/1.1, and over HTTP/2.
fn clients() -> [(Client, Version); 2] {
    let http1 = Client::builder().http1_only().build().expect("a client");
    let http2 = Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    [(http1, Version::HTTP_11), (http2, Version::HTTP_2)]
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().expect("ASCII"))
}

#[tokio::test]
async fn a_page_gets_an_answer_with_its_trailers_in_the_body() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    for (client, version) in clients() {
        let response = call(client, &server, "GetLatestVideo", &request(CHANNEL)).await;
        assert_eq!(response.version(), version);
        assert_eq!(
            header(&response, "content-type"),
            Some("application/grpc-web+proto")
        );
        assert_eq!(header(&response, "access-control-allow-origin"), Some(OURS));
        let exposed = header(&response, "access-control-expose-headers").expect("some");
        assert!(
            exposed.contains("cache-status") && exposed.contains("grpc-status-details-bin"),
            "{exposed}"
        );
        assert!(
            header(&response, "cache-status")
                .expect("set")
                .starts_with("plaque; ")
        );
        let body = response.bytes().await.expect("a body");
        let [(0, message), (0x80, trailers)] = &frames(&body)[..] else {
            panic!("{body:?}");
        };
        let answer = GetLatestVideoResponse::decode(&message[..]).expect("a message");
        assert_eq!(answer.video.expect("set").channel_id, CHANNEL);
        assert_eq!(&trailers[..], b"grpc-status:0\r\n");
    }
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    let counted = "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",\
                   rpc_method=\"plaque.v1.LatestVideo/GetLatestVideo\",rpc_response_status_code=\"OK\"} 2\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_page_gets_the_status_of_an_error() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    for (client, _) in clients() {
        let response = call(client, &server, "GetLatestVideo", &request("nonsense")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "grpc-status"), Some("3"));
        assert!(header(&response, "grpc-status-details-bin").is_some());
    }
}

#[tokio::test]
async fn a_page_gets_the_status_of_a_malformed_message() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    for (client, _) in clients() {
        for method in ["GetLatestVideo", "BatchGetLatestVideos", "WatchLatestVideo"] {
            for (body, what) in MALFORMED {
                let response = call_with(client.clone(), &server, method, *body).await;
                let status = Status::from_header_map(response.headers()).expect("an end");
                let (name, _) = reason(&status);
                assert_eq!(
                    (status.code(), name.as_str()),
                    (Code::InvalidArgument, "MALFORMED_MESSAGE"),
                    "{method}, {what}: {status:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_page_can_watch() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    let watch = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    for (client, _) in clients() {
        let mut response = call(client, &server, "WatchLatestVideo", &watch).await;
        let event = response.chunk().await.expect("no error").expect("an event");
        assert_eq!(event[0], 0, "a message, while the stream stays open");
    }
}

#[tokio::test]
async fn only_pages_of_the_list_may_call() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    let url = format!("http://{}/plaque.v1.LatestVideo/GetLatestVideo", server.address);
    for (client, _) in clients() {
        for (origin, allowed) in [(OURS, Some(OURS)), (THEIRS, None)] {
            let asked = client
                .request(Method::OPTIONS, &url)
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header(
                    "access-control-request-headers",
                    "content-type,x-grpc-web,grpc-timeout",
                );
            let response = asked.send().await.expect("an answer");
            assert_eq!(response.status(), 200);
            assert_eq!(header(&response, "access-control-allow-origin"), allowed);
        }
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
}

#[tokio::test]
async fn other_clients_call_as_before() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    let (answer, _) = server.client().get(CHANNEL).await.expect("an answer");
    assert_eq!(answer.video.expect("set").channel_id, CHANNEL);
}

#[tokio::test]
async fn requests_that_are_not_calls_are_refused() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    let (status, _) = http_get(server.address, "/").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_page_that_stays_connected_does_not_hold_up_a_drain() {
    let fake = Fake::open(feed).await;
    let server = serve(&fake).await;
    let [(client, _), _] = clients();
    call(client.clone(), &server, "GetLatestVideo", &request(CHANNEL)).await;
    assert_eq!(server.stop().ended().await.cut_off, 0);
    drop(client);
}
