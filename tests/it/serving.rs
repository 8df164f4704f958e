//! The server around the service: what else it offers, and what it refuses.

use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{CHANNEL, Fake, feed};

const SERVICE: &str = "plaque.v1.LatestVideo";

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
async fn another_protocol_on_the_port_is_turned_away() {
    use tokio::io::AsyncWriteExt as _;
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut peer = TcpStream::connect(server.address).await.expect("accepted");
    peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let mut received = Vec::new();
    // Ends with the connection, cleanly or by a reset.
    let _ = peer.read_to_end(&mut received).await;
    server.client().get(CHANNEL).await.expect("an answer");
}
