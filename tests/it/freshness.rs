//! Freshness: which answer is served, for how long, and with which cache status.

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::proto::v1::{GetLatestVideoRequest, VideoKind, WatchLatestVideoRequest};
use tonic::{Code, Request};

use crate::stores::soon;
use crate::support::{Answered, CHANNEL, Client, Fake, LONG, cache_status, feed, reason, request};

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
    let (first, cache_status) = client.get(CHANNEL).await.expect("an answer");
    assert_eq!(cache_status, "plaque; fwd=uri-miss");
    let (second, cache_status) = client.get(CHANNEL).await.expect("an answer");
    assert!(
        cache_status == "plaque; hit; ttl=600" || cache_status == "plaque; hit; ttl=599",
        "{cache_status}"
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
    let (_, cache_status) = client.get(CHANNEL).await.expect("an answer");
    assert_eq!(cache_status, "plaque; fwd=stale");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn callers_cannot_have_a_channel_looked_up_too_often() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.latest.policy.min_refetch = LONG)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    for max_age in [Duration::ZERO, Duration::from_millis(1), LONG / 2] {
        let (_, cache_status) = get_with_max_age(&client, max_age).await.expect("an answer");
        assert!(cache_status.starts_with("plaque; hit"), "{cache_status}");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn freshness_and_polls_have_their_own_intervals() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            config.latest.policy.min_refetch = LONG;
            config.latest.policy.fresh_for = Duration::ZERO;
            config.latest.watch_every = Duration::from_millis(1);
        })
        .await;
    let client = server.client();
    for lookups in 1..=2 {
        client.get(CHANNEL).await.expect("an answer");
        assert_eq!(fake.lookups(CHANNEL), lookups);
    }
    let watch = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let _watch = client.0.clone().watch_latest_video(watch).await.expect("a watch");
    for _ in 1..=5 {
        soon(fake.arrival()).await;
    }
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
    let (response, cache_status) = get_with_max_age(&client, hour).await.expect("an answer");
    assert!(cache_status.starts_with("plaque; hit; ttl="), "{cache_status}");
    assert!(response.freshness.expect("set").stale);
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn a_caller_may_ask_for_a_new_answer() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let (_, cache_status) = get_with_max_age(&client, Duration::ZERO)
        .await
        .expect("an answer");
    assert_eq!(cache_status, "plaque; fwd=request");
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
    assert_eq!(fake.lookups(CHANNEL), 2, "once, and once more at once");
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
    let (_, cache_status) = client.get(CHANNEL).await.expect("the spell is over");
    assert_eq!(cache_status, "plaque; fwd=stale");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

/// A fake that answers once and then says 404, for the channel [`CHANNEL`] alone.
async fn fake_that_answers_once_and_then_404() -> Fake {
    Fake::open(|lookup| match (lookup.channel.as_str(), lookup.number) {
        (CHANNEL, 2..) => StatusCode::NOT_FOUND.into_response(),
        _ => feed(lookup),
    })
    .await
}

#[tokio::test]
async fn a_fresh_answer_survives_a_failure() {
    let fake = fake_that_answers_once_and_then_404().await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let (response, cache_status) = get_with_max_age(&client, Duration::ZERO)
        .await
        .expect("the first one");
    assert_eq!(cache_status, "plaque; fwd=request; fwd-status=404");
    assert!(!response.freshness.expect("set").stale, "it is still fresh");
    let (_, cache_status) = client
        .get(CHANNEL)
        .await
        .expect("the first answer is fresh still");
    assert!(cache_status.starts_with("plaque; hit; ttl="), "{cache_status}");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn a_spell_of_404_over_a_known_channel_shows_only_in_the_age() {
    let fake = fake_that_answers_once_and_then_404().await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::ZERO)
        .await;
    let client = server.client();
    let (first, _) = client.get(CHANNEL).await.expect("an answer");
    let (second, cache_status) = client.get(CHANNEL).await.expect("the old answer");
    assert_eq!(cache_status, "plaque; fwd=stale; fwd-status=404");
    assert_eq!(first.video, second.video);
    assert!(second.freshness.expect("set").stale);
    assert_eq!(
        first.freshness.expect("set").fetch_time,
        second.freshness.expect("set").fetch_time
    );
    // In the backoff: at once.
    for _ in 0..3 {
        let (_, cache_status) = client.get(CHANNEL).await.expect("the old answer");
        assert!(cache_status.starts_with("plaque; hit; ttl="), "{cache_status}");
    }
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn an_answer_too_old_to_be_served_is_replaced_by_the_error() {
    let fake = fake_that_answers_once_and_then_404().await;
    let server = fake
        .serve_with(|config| {
            config.latest.policy.fresh_for = Duration::ZERO;
            config.latest.policy.stale_if_error = Duration::ZERO;
        })
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let status = client.get(CHANNEL).await.expect_err("too old");
    assert_eq!(
        reason(&status).0,
        "CHANNEL_NOT_FOUND",
        "nothing else is known of it any more"
    );
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn an_old_answer_is_marked_stale_whatever_the_lookup_died_of() {
    let fake = Fake::open(|lookup| match lookup.number {
        1 => feed(lookup),
        _ => "no feed at all".into_response(),
    })
    .await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::ZERO)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    for cache_status in ["plaque; fwd=stale", "plaque; hit; ttl=-1"] {
        let (response, reported) = client.get(CHANNEL).await.expect("the old answer");
        assert_eq!(reported, cache_status);
        assert!(response.freshness.expect("set").stale);
    }
}

#[tokio::test]
async fn readers_of_a_stale_answer_get_it_at_once_and_cost_one_lookup() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| {
            config.latest.policy.fresh_for = Duration::ZERO;
            config.latest.policy.stale_while_revalidate = LONG;
        })
        .await;
    let client = server.client();
    fake.release();
    client.get(CHANNEL).await.expect("an answer");
    // The gate is shut: a caller that waited for a lookup now would wait forever.
    for _ in 0..100 {
        let (response, cache_status) = client.get(CHANNEL).await.expect("the stale answer");
        assert!(cache_status.starts_with("plaque; hit; ttl="), "{cache_status}");
        assert!(response.freshness.expect("set").stale);
    }
    fake.arrival().await;
    fake.arrival().await;
    assert_eq!(fake.lookups(CHANNEL), 2, "the first one, and one refresh");
}

#[tokio::test]
async fn known_channels_that_go_missing_make_a_404_say_nothing() {
    const KNOWN: [&str; 2] = ["UCknownknownknownknow01A", "UCknownknownknownknow02A"];
    let fake = Fake::open(|lookup| match (lookup.channel.as_str(), lookup.number) {
        (CHANNEL, _) | (_, 2..) => StatusCode::NOT_FOUND.into_response(),
        _ => feed(lookup),
    })
    .await;
    let server = fake
        .serve_with(|config| {
            config.latest.policy.fresh_for = Duration::ZERO;
            config.latest.policy.negative_for = Duration::ZERO;
        })
        .await;
    let client = server.client();
    for known in KNOWN {
        client.get(known).await.expect("an answer");
    }
    let status = client.get(CHANNEL).await.expect_err("no outage yet");
    assert_eq!(reason(&status).0, "CHANNEL_NOT_FOUND");
    for known in KNOWN {
        let (_, cache_status) = client.get(known).await.expect("the old answer");
        assert_eq!(cache_status, "plaque; fwd=stale; fwd-status=404");
    }
    let status = client.get(CHANNEL).await.expect_err("the 404 means nothing");
    assert_eq!(status.code(), Code::Unavailable);
    let (reason, details) = reason(&status);
    assert_eq!(reason, "UPSTREAM_OUTAGE");
    assert!(details.retry_info().is_some());
}

#[tokio::test]
async fn callers_beyond_the_limit_are_refused_at_once() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve_with(|config| config.latest.max_waiters = 1).await;
    let client = server.client();
    let waiting = client.start(CHANNEL);
    fake.arrival().await;
    let status = client.get(CHANNEL).await.expect_err("no place");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let (reason, details) = reason(&status);
    assert_eq!(reason, "OVERLOADED");
    assert!(details.retry_info().is_some());
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    fake.release();
    waiting.await.expect("no panic").expect("an answer");
    client.get(CHANNEL).await.expect("a hit needs no place");
    assert_eq!(fake.lookups(CHANNEL), 1);
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
async fn every_field_is_returned() {
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
