//! Which answer is given, for how long, and what is said about it.

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::proto::v1::{GetLatestVideoRequest, VideoKind};
use tonic::{Code, Request};

use crate::support::{Answered, CHANNEL, Client, Fake, cache_status, feed, reason, request};

async fn get_with_max_age(client: &Client, max_age: Duration) -> Answered {
    let request = GetLatestVideoRequest {
        max_age: Some(max_age.try_into().expect("in range")),
        ..request(CHANNEL)
    };
    client.ask(Request::new(request)).await
}

#[tokio::test]
async fn a_fresh_answer_is_given_without_a_lookup() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let (first, made) = client.get(CHANNEL).await.expect("an answer");
    assert_eq!(made, "plaque; fwd=uri-miss");
    let (second, made) = client.get(CHANNEL).await.expect("an answer");
    assert!(
        made == "plaque; hit; ttl=600" || made == "plaque; hit; ttl=599",
        "{made}"
    );
    assert_eq!(first, second);
    assert!(!second.freshness.expect("set").stale);
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_longer_fresh_is_looked_up_again() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::ZERO)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let (_, made) = client.get(CHANNEL).await.expect("an answer");
    assert_eq!(made, "plaque; fwd=stale");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn a_caller_may_accept_an_older_answer() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::ZERO)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let hour = Duration::from_hours(1);
    let (response, made) = get_with_max_age(&client, hour).await.expect("an answer");
    assert!(made.starts_with("plaque; hit; ttl="), "{made}");
    assert!(response.freshness.expect("set").stale);
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn a_caller_may_ask_for_a_new_answer() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let (_, made) = get_with_max_age(&client, Duration::ZERO)
        .await
        .expect("an answer");
    assert_eq!(made, "plaque; fwd=request");
    assert_eq!(fake.lookups(CHANNEL), 2);
    let longest = Duration::from_secs(u64::MAX / 4);
    get_with_max_age(&client, longest).await.expect("any age will do");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn a_failure_is_remembered_whatever_age_is_asked_for() {
    let fake = Fake::open(|_| StatusCode::BAD_GATEWAY.into_response()).await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect_err("it fails");
    let status = get_with_max_age(&client, Duration::ZERO)
        .await
        .expect_err("remembered");
    assert_eq!(reason(&status).0, "UPSTREAM_ERROR");
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn a_failure_is_forgotten_in_time() {
    let fake = Fake::open(|lookup| match lookup.number {
        1 => StatusCode::NOT_FOUND.into_response(),
        _ => feed(lookup),
    })
    .await;
    let server = fake
        .serve_with(|config| config.latest.policy.negative_for = Duration::ZERO)
        .await;
    let client = server.client();
    let status = client.get(CHANNEL).await.expect_err("a spell of 404");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        cache_status(status.metadata()),
        "plaque; fwd=uri-miss; fwd-status=404"
    );
    let (_, made) = client.get(CHANNEL).await.expect("the spell is over");
    assert_eq!(made, "plaque; fwd=stale");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn a_fresh_answer_survives_a_failure() {
    let fake = Fake::open(|lookup| match lookup.number {
        1 => feed(lookup),
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    get_with_max_age(&client, Duration::ZERO)
        .await
        .expect_err("looked up, and failed");
    let (_, made) = client
        .get(CHANNEL)
        .await
        .expect("the first answer is fresh still");
    assert!(made.starts_with("plaque; hit; ttl="), "{made}");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn each_kind_has_its_newest_upload() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    for (kind, id, url) in [
        (
            VideoKind::Unspecified,
            "upload0015A",
            "https://www.youtube.com/watch?v=upload0015A",
        ),
        (
            VideoKind::Video,
            "upload0015A",
            "https://www.youtube.com/watch?v=upload0015A",
        ),
        (
            VideoKind::Short,
            "upload0013A",
            "https://www.youtube.com/shorts/upload0013A",
        ),
    ] {
        let request = GetLatestVideoRequest {
            kind: kind.into(),
            ..request(CHANNEL)
        };
        let (response, _) = client.ask(Request::new(request)).await.expect("an answer");
        let video = response.video.expect("set");
        assert_eq!((video.video_id.as_str(), video.url.as_str()), (id, url));
        assert_ne!(video.kind(), VideoKind::Unspecified);
    }
    assert_eq!(fake.lookups(CHANNEL), 1, "one feed answers all kinds");
}

#[tokio::test]
async fn every_field_is_told() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let (response, _) = server.client().get(CHANNEL).await.expect("an answer");
    let video = response.video.expect("set");
    assert_eq!(video.channel_id, CHANNEL);
    assert_eq!(video.channel_title, "A channel");
    assert_eq!(video.title, "Upload <15> & more");
    assert_eq!(video.publish_time.map(|t| t.seconds), Some(1_800_000_000));
    assert_eq!(video.update_time.map(|t| t.seconds), Some(1_800_000_000));
    assert_eq!(video.view_count, Some(1234));
    let thumbnail = video.thumbnail.expect("set");
    assert_eq!(thumbnail.url, "https://i1.ytimg.com/vi/upload0015A/hqdefault.jpg");
    assert_eq!((thumbnail.width, thumbnail.height), (480, 360));
    assert!(response.freshness.expect("set").fetch_time.is_some());
}
