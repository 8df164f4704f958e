//! Graceful shutdown: calls in progress finish, and nothing else delays it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use plaque::{
    proto::{
        health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
        v1::WatchLatestVideoRequest,
    },
    server::Drained,
};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::spawn_blocking};

use crate::{
    program::plaque_serve,
    raw::Raw,
    support::{CHANNEL, Fake, LONG, feed, http_get, request},
};

const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_call_in_progress_is_finished_before_the_server_stops() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let call = server.client().start(CHANNEL);
    fake.arrival().await;
    let (admin, stopping) = (server.admin, server.stop());
    while http_get(admin, "/readyz").await.0 != 503 {}
    fake.release();
    call.await.expect("no panic").expect("an answer");
    assert_eq!(stopping.ended().await, Drained { cut_off: 0 });
}

#[tokio::test]
async fn it_serves_during_the_drain_delay_but_reports_not_serving() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.drain.delay = LONG).await;
    let mut health = HealthClient::new(server.connection().await);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    watch.message().await.expect("no error").expect("an answer");
    let (client, admin) = (server.client(), server.admin);
    let _stopping = server.stop();
    let update = watch.message().await.expect("no error").expect("an answer");
    assert_eq!(update.status(), ServingStatus::NotServing);
    assert_eq!(http_get(admin, "/readyz").await.0, 503);
    assert_eq!(http_get(admin, "/livez").await.0, 200);
    client
        .get(CHANNEL)
        .await
        .expect("an answer, over a new connection");
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
async fn calls_that_do_not_end_are_cut_off_at_the_drain_timeout() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve_with(|config| config.drain.timeout = SHORT).await;
    let calls = server.client().start_many(CHANNEL, 2).await;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 2 });
    for call in calls {
        call.await.expect("no panic").expect_err("cut off");
    }
}

#[tokio::test]
async fn a_silent_peer_does_not_delay_shutdown() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.connections.linger = SHORT).await;
    let mut silent = TcpStream::connect(server.address).await.expect("accepted");
    // One call on another connection: the acceptor has gone round, and taken the silent one.
    server.client().get(CHANNEL).await.expect("an answer");
    assert_eq!(server.stop().ended().await, Drained { cut_off: 0 });
    // Ends with the connection, cleanly or by a reset.
    let _ = silent.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_is_cut_off_at_the_drain_timeout() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.drain.timeout = SHORT).await;
    let mut peer = Raw::unreading(server.address).await;
    let _unread = peer
        .call("plaque.v1.LatestVideo/GetLatestVideo", &request(CHANNEL))
        .await;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 1 });
}

#[tokio::test]
async fn a_watcher_that_does_not_read_does_not_keep_the_server_up() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.drain.timeout = SHORT).await;
    let watch = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let mut peer = Raw::unreading(server.address).await;
    let _unread = peer.call("plaque.v1.LatestVideo/WatchLatestVideo", &watch).await;
    // Whether the watch counts as cut off depends on how much of it was ready to be sent.
    server.stop().ended().await;
}

#[tokio::test]
async fn the_record_of_a_drain_counts_requests_for_json_too() {
    let fake = Fake::gated(feed).await;
    let mut command = plaque_serve();
    command.args(["--http-listen=127.0.0.1:0", "--log-format=json"]);
    command.args(["--canary=none", "--upstream", fake.origin.url().as_str()]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut records = BufReader::new(child.stderr.take().expect("piped")).lines();
    // The fields of the next record with this message.
    let mut next = move |message: &str| loop {
        let line = records.next().expect("a record").expect("text");
        let record: Value = serde_json::from_str(&line).expect("JSON");
        if record["fields"]["message"] == message {
            return record["fields"].clone();
        }
    };
    let listening = spawn_blocking(move || (next("listening"), next));
    let (listening, mut next) = listening.await.expect("no panic");
    let http = listening["http"].as_str().and_then(|http| http.parse().ok());
    let path = format!("/v1/channels/{CHANNEL}/latest-video");
    let asked = tokio::spawn(async move { http_get(http.expect("an address"), &path).await });
    fake.arrival().await;
    let sent = Command::new("kill").arg(child.id().to_string()).status();
    assert!(sent.expect("kill is there").success());
    let draining = spawn_blocking(move || next("draining")).await;
    let draining = draining.expect("no panic");
    assert_eq!(
        (&draining["grpc_connections"], &draining["calls"]),
        (&0.into(), &1.into())
    );
    fake.release();
    assert_eq!(asked.await.expect("no panic").0, 200);
    let ended = spawn_blocking(move || child.wait()).await;
    assert_eq!(ended.expect("no panic").expect("it ran").code(), Some(0));
}
