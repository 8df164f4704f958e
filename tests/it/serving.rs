//! The server around the service: what it offers, and how it stops.

use std::time::Duration;

use plaque::server::Drained;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{CHANNEL, Fake, feed};

const SERVICE: &str = "plaque.v1.LatestVideo";

#[tokio::test]
async fn health_is_told_for_the_server_and_for_the_service() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut health = HealthClient::new(server.connection().await);
    for service in ["", SERVICE] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test]
async fn reflection_v1_shows_the_service_with_its_comments() {
    use v1::{
        server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(SERVICE.into())),
    };
    let answer = ServerReflectionClient::new(server.connection().await)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("a stream")
        .into_inner()
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let comment = b"Answers what a YouTube channel uploaded last";
    let has_comment = |file: &Vec<u8>| file.windows(comment.len()).any(|window| window == comment);
    assert!(files.file_descriptor_proto.iter().any(has_comment));
}

#[tokio::test]
async fn reflection_v1alpha_lists_the_service() {
    use v1alpha::{
        server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answer = ServerReflectionClient::new(server.connection().await)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("a stream")
        .into_inner()
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&SERVICE), "{names:?}");
}

#[tokio::test]
async fn a_call_in_progress_is_finished_before_the_server_stops() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let call = server.client().start(CHANNEL);
    fake.arrival().await;
    let request = HealthCheckRequest {
        service: SERVICE.into(),
    };
    let watch = HealthClient::new(server.connection().await).watch(request).await;
    let mut health = watch.expect("a stream").into_inner();
    let first = health.message().await.expect("no error").expect("an answer");
    assert_eq!(first.status(), ServingStatus::Serving);

    let stopping = server.stop();
    let next = health.message().await.expect("no error").expect("an answer");
    assert_eq!(next.status(), ServingStatus::NotServing);
    drop(health);
    fake.release();
    call.await.expect("no panic").expect("an answer");
    assert_eq!(stopping.ended().await, Drained { cut_off: 0 });
}

#[tokio::test]
async fn an_idle_connection_does_not_keep_the_server_up() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    assert_eq!(server.stop().ended().await, Drained { cut_off: 0 });
    client.get(CHANNEL).await.expect_err("nobody listens");
}

#[tokio::test]
async fn a_server_that_stops_accepts_no_connection() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = server.address;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 0 });
    TcpStream::connect(address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_at_the_drain_timeout() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.drain_timeout = Duration::from_millis(20))
        .await;
    let call = server.client().start(CHANNEL);
    fake.arrival().await;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 1 });
    call.await.expect("no panic").expect_err("cut off");
}

#[tokio::test]
async fn a_peer_that_says_nothing_does_not_keep_the_server_up() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.drain_timeout = Duration::from_millis(20))
        .await;
    let mut silent = TcpStream::connect(server.address).await.expect("accepted");
    // One call on another connection: the acceptor has gone round, and taken the silent one.
    server.client().get(CHANNEL).await.expect("an answer");
    server.stop().ended().await;
    // Ends with the connection, cleanly or by a reset.
    let _ = silent.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn another_protocol_on_the_port_is_turned_away() {
    use tokio::io::AsyncWriteExt as _;
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut peer = TcpStream::connect(server.address).await.expect("accepted");
    peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let mut heard = Vec::new();
    // Ends with the connection, cleanly or by a reset.
    let _ = peer.read_to_end(&mut heard).await;
    server.client().get(CHANNEL).await.expect("an answer");
}
