//! Limits of connections and calls.

use std::{num::NonZeroUsize, time::Duration};

use h2::Reason;
use plaque::proto::{
    health::{HealthCheckRequest, health_client::HealthClient},
    v1::WatchLatestVideoRequest,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Request, Status};

use crate::{
    raw::{HELLO, PING, Raw},
    support::{CHANNEL, Fake, LONG, Server, feed, http_get, reason, request},
};

const SHORT: Duration = Duration::from_millis(20);
const GET: &str = "plaque.v1.LatestVideo/GetLatestVideo";
const CHECK_HEALTH: &str = "grpc.health.v1.Health/Check";
const WATCH_HEALTH: &str = "grpc.health.v1.Health/Watch";

/// Waits until the server closes the connection, cleanly or by a reset.
async fn closed(mut peer: TcpStream) {
    let _ = peer.read_to_end(&mut Vec::new()).await;
}

fn watch() -> WatchLatestVideoRequest {
    WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    }
}

#[tokio::test]
async fn one_call_too_many_is_refused_at_once() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.calls.at_once = NonZeroUsize::MIN)
        .await;
    let client = server.client();
    let first = client.start(CHANNEL);
    fake.arrival().await;

    let refused = client.get(CHANNEL).await.expect_err("there is one already");
    let (name, details) = reason(&refused);
    assert_eq!(
        (refused.code(), name.as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    assert!(
        details
            .retry_info()
            .is_some_and(|info| info.retry_delay.is_some())
    );
    assert_eq!(
        refused
            .metadata()
            .get("grpc-retry-pushback-ms")
            .expect("a pushback"),
        "1000"
    );
    // A caller that will not wait as long is told not to retry.
    let mut hasty = tonic::Request::new(request(CHANNEL));
    hasty.set_timeout(Duration::from_millis(900));
    let refused = client.ask(hasty).await.expect_err("there is one already");
    let pushback = refused.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(pushback.expect("a pushback"), "-1");
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    assert!(metrics.contains("\nplaque_calls_shed_total 2\n"), "{metrics}");
    assert!(metrics.contains("\nplaque_calls 1\n"), "{metrics}");

    let mut health = HealthClient::new(server.connection().await);
    let healthy = health.check(HealthCheckRequest::default()).await;
    healthy.expect("an overloaded server still answers health checks");

    fake.release();
    first.await.expect("no panic").expect("the first is unharmed");
    client.get(CHANNEL).await.expect("there is room again");
}

#[tokio::test]
async fn one_connection_too_many_is_for_health_checks_only() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.connections.at_once = NonZeroUsize::MIN)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");

    let mut health = HealthClient::new(server.connection().await);
    let healthy = health.check(HealthCheckRequest::default()).await;
    healthy.expect("a full server is alive");

    let refused = server.client().get(CHANNEL).await.expect_err("too many");
    let (name, details) = reason(&refused);
    assert_eq!(
        (refused.code(), name.as_str()),
        (Code::Unavailable, "TOO_MANY_CONNECTIONS")
    );
    assert!(details.retry_info().is_some());
    let mut peer = Raw::connect(server.address).await;
    let refused = peer.call(WATCH_HEALTH, &HealthCheckRequest::default()).await;
    assert_eq!(refused.headers()["grpc-status"], "14");
    // Who wants something else is sent away at once, and who wants nothing soon.
    peer.told_to_go().await;
    peer.running.await.expect("no panic").expect("no error");
    closed(TcpStream::connect(server.address).await.expect("accepted")).await;

    client.get(CHANNEL).await.expect("the first is unharmed");
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    for line in [
        "plaque_connections 1",
        "plaque_connections_accepted_total 5",
        "plaque_limit{of=\"connections\"} 1",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
    assert!(
        metrics.contains("\nplaque_connections_closed_total{reason=\"limit\"} "),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_probe_gets_in_whatever_others_hold() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.connections.at_once = NonZeroUsize::MIN)
        .await;
    // Has the one place that there is, to the end.
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    // More than there are places for probes: some say nothing, some begin a check that they do not finish.
    let mut silent = vec![];
    let mut hanging = vec![];
    for _ in 0..150 {
        silent.push(TcpStream::connect(server.address).await.expect("accepted"));
        let mut peer = Raw::connect(server.address).await;
        let begun = peer.begin(CHECK_HEALTH);
        hanging.push((peer, begun));
    }
    let mut health = HealthClient::new(server.connection().await);
    let healthy = health.check(HealthCheckRequest::default()).await;
    healthy.expect("a full server is alive");
    // None of them stays.
    for silent in silent {
        closed(silent).await;
    }
    for (peer, _begun) in hanging {
        let _ = peer.running.await.expect("no panic");
    }
    client.get(CHANNEL).await.expect("an answer");
}

#[tokio::test]
async fn health_watches_have_a_bound_and_every_connection_its_first() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut held = vec![];
    let refused = 'all: loop {
        let mut greedy = Raw::connect(server.address).await;
        for _ in 0..150 {
            let watch = greedy.call(WATCH_HEALTH, &HealthCheckRequest::default()).await;
            if watch.headers().contains_key("grpc-status") {
                break 'all watch;
            }
            let mut statuses = watch.into_body();
            statuses.data().await.expect("a status").expect("no error");
            held.push(statuses);
        }
        assert!(held.len() < 1500, "without a bound");
    };
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert!(held.len() > 500, "{}", held.len());
    let mut health = HealthClient::new(server.connection().await);
    for _ in 0..2 {
        let watch = health
            .watch(HealthCheckRequest::default())
            .await
            .expect("a watch");
        let mut watch = watch.into_inner();
        watch.message().await.expect("no error").expect("a status");
    }
}

#[tokio::test]
async fn a_connection_has_as_many_calls_as_the_server_says() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.connections.streams = 7).await;
    let mut peer = Raw::connect(server.address).await;
    peer.call(GET, &request(CHANNEL)).await;
    assert_eq!(peer.streams(), 7);
}

#[tokio::test]
async fn a_message_that_is_too_large_fails_alone() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.message_bytes = 1024).await;
    let client = server.client();
    let refused = client.get(&"x".repeat(2000)).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange);
    let refused = client.get(&"x".repeat(1000)).await.expect_err("no channel");
    assert_eq!(refused.code(), Code::InvalidArgument);
    client.get(CHANNEL).await.expect("an answer");
}

#[tokio::test]
async fn a_peer_that_does_not_begin_is_closed() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.connections.preface = SHORT).await;
    closed(TcpStream::connect(server.address).await.expect("accepted")).await;
    let mut slow = TcpStream::connect(server.address).await.expect("accepted");
    slow.write_all(&HELLO[..23]).await.expect("sent");
    closed(slow).await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            config.connections.keepalive = Some(SHORT);
            config.connections.pong = SHORT;
        })
        .await;
    let mut peer = TcpStream::connect(server.address).await.expect("accepted");
    peer.write_all(HELLO).await.expect("sent");
    closed(peer).await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_closed() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.connections.pong = SHORT).await;
    let mut peer = TcpStream::connect(server.address).await.expect("accepted");
    peer.write_all(HELLO).await.expect("sent");
    // Until the answers fill all buffers, and the server ends it.
    while peer.write_all(PING).await.is_ok() {}
}

#[tokio::test]
async fn large_messages_are_refused_by_every_service() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.message_bytes = 1024).await;
    // Reflection ends a stream that it cannot read with OK. One that it can read is INVALID_ARGUMENT: it asks for nothing.
    for (method, expected) in [
        ("grpc.health.v1.Health/Check", "11"),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "0"),
        (
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "0",
        ),
    ] {
        let mut peer = Raw::connect(server.address).await;
        let response = peer.call(method, &"x".repeat(2000)).await;
        let mut ends = response.headers().clone();
        if !ends.contains_key("grpc-status") {
            ends = response
                .into_body()
                .trailers()
                .await
                .expect("no reset")
                .expect("trailers");
        }
        assert_eq!(ends["grpc-status"], expected, "{method}");
    }
}

#[tokio::test]
async fn a_connection_without_a_call_gets_a_goaway() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.connections.idle = Some(SHORT))
        .await;
    let client = server.client();
    let call = client.start(CHANNEL);
    fake.arrival().await;

    let idle = Raw::connect(server.address).await;
    idle.running.await.expect("no panic").expect("no error");

    fake.release();
    call.await
        .expect("no panic")
        .expect("a connection with a call is not idle");
}

#[tokio::test]
async fn an_old_connection_gets_a_goaway_and_finishes_its_calls() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.connections.age = Some(SHORT))
        .await;
    let mut peer = Raw::connect(server.address).await;
    let call = peer.start(GET, &request(CHANNEL));
    fake.arrival().await;
    peer.told_to_go().await;
    fake.release();
    let mut answer = call.await.expect("an answer").into_body();
    assert!(
        !answer
            .data()
            .await
            .expect("a message")
            .expect("no error")
            .is_empty()
    );
    peer.running.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_dead_peer_is_closed_after_its_goaway() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            config.connections.age = Some(SHORT);
            config.connections.linger = SHORT;
        })
        .await;
    let mut peer = TcpStream::connect(server.address).await.expect("accepted");
    peer.write_all(HELLO).await.expect("sent");
    closed(peer).await;
}

/// Makes a call of which nothing is read but the headers, until the server resets it.
async fn answer_unread(server: &Server) {
    let mut peer = Raw::unreading(server.address).await;
    let mut unread = loop {
        let answer = peer.call(GET, &request(CHANNEL)).await;
        // On a busy machine one may come too late, and another.
        if !answer.headers().contains_key("grpc-status") {
            break answer.into_body();
        }
    };
    let end = unread.data().await.expect("an end").expect_err("no data");
    assert_eq!(end.reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_reset() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.deadline = SHORT).await;
    // Known from here on: the deadline is of no consequence for the answer.
    while server.client().get(CHANNEL).await.is_err() {}
    answer_unread(&server).await;
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    assert!(metrics.contains("\nplaque_calls 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_watch_outlives_the_deadline_of_calls() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.deadline = SHORT).await;
    while server.client().get(CHANNEL).await.is_err() {}
    // On a busy machine one may come too late, and another.
    let mut events = loop {
        if let Ok(events) = server.client().0.watch_latest_video(watch()).await {
            break events.into_inner();
        }
    };
    events.message().await.expect("no error").expect("an event");
    // Takes as long as the deadline, from now on.
    answer_unread(&server).await;

    let stopping = server.stop();
    let end = events.message().await.expect_err("the server stops");
    assert_eq!(reason(&end).0, "SHUTTING_DOWN");
    stopping.ended().await;
}

#[tokio::test]
async fn a_watch_ends_at_the_longest_time_that_the_server_allows() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.watch = Some(SHORT)).await;
    watch_until_deadline(&server, Request::new(watch())).await;
}

#[tokio::test]
async fn a_watch_ends_at_its_caller_s_deadline() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.watch = Some(LONG)).await;
    let mut request = Request::new(watch());
    request.set_timeout(SHORT);
    watch_until_deadline(&server, request).await;
}

async fn watch_until_deadline(server: &Server, request: Request<WatchLatestVideoRequest>) {
    let ended = async {
        let mut events = server.client().0.watch_latest_video(request).await?.into_inner();
        while events.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let end = ended.await.expect_err("its time is over");
    assert_eq!(
        (end.code(), reason(&end).0.as_str()),
        (Code::DeadlineExceeded, "DEADLINE")
    );
}

#[tokio::test]
async fn a_request_that_never_arrives_ends_at_the_deadline() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.calls.deadline = SHORT).await;
    let mut peer = Raw::connect(server.address).await;
    let (response, _message) = peer.begin(GET);
    let response = response.await.expect("headers");
    assert_eq!(response.headers().get("grpc-status").expect("an end"), "4");
}
