//! Videos and Shorts: which feed is asked for them.

use std::time::{Duration, SystemTime};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use plaque::{
    origin::{self, Lookup, Upload},
    proto::v1::{GetLatestVideoRequest, VideoKind},
};
use tonic::Request;

use crate::support::{Answered, CHANNEL, Client, Fake, channel, reason, request};

/// The feed of [`CHANNEL`]'s Shorts.
const SHORTS: &str = "UUSH0123456789abcdefghijkA";

async fn ask(client: &Client, kind: VideoKind) -> Answered {
    let request = GetLatestVideoRequest {
        kind: kind.into(),
        ..request(CHANNEL)
    };
    client.ask(Request::new(request)).await
}

fn asked_for_shorts(fake: &Fake) -> usize {
    fake.origin.lookups_of(SHORTS)
}

fn upload(id: &str, short: bool) -> Upload {
    Upload {
        id: id.into(),
        title: format!("Title of {id}"),
        short,
        published: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
    }
}

fn videos_only(lookup: &Lookup) -> Response {
    origin::feed(
        CHANNEL,
        "A channel",
        &[upload("videovideoA", lookup.channel == SHORTS)],
    )
}

#[tokio::test]
async fn a_kind_that_the_channel_s_feed_shows_is_answered_from_it() {
    let both = |_: &Lookup| {
        origin::feed(
            CHANNEL,
            "Both",
            &[upload("videovideoA", false), upload("shortshortA", true)],
        )
    };
    let fake = Fake::open(both).await;
    let server = fake.serve().await;
    let client = server.client();
    for (kind, id) in [
        (VideoKind::Video, "videovideoA"),
        (VideoKind::Short, "shortshortA"),
    ] {
        let (answer, _) = ask(&client, kind).await.expect("an answer");
        let video = answer.video.expect("an upload");
        assert_eq!((video.kind(), video.video_id.as_str()), (kind, id));
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
    assert_eq!(asked_for_shorts(&fake), 0);
}

#[tokio::test]
async fn a_kind_that_it_lacks_is_asked_of_the_kind_s_own_feed_once() {
    let fake = Fake::gated(videos_only).await;
    let server = fake.serve().await;
    let client = server.client();
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, VideoKind::Short).await })
        })
        .collect();
    for _of_the_two in 0..2 {
        fake.arrival().await;
        fake.release();
    }
    for asking in asking {
        let (answer, status) = asking.await.expect("no panic").expect("an answer");
        assert_eq!(answer.video.expect("an upload").kind(), VideoKind::Short);
        assert!(status.starts_with("plaque; "), "{status}");
    }
    let (_, status) = ask(&client, VideoKind::Short).await.expect("an answer");
    assert!(status.starts_with("plaque; hit; ttl="), "{status}");
    assert_eq!((fake.lookups(CHANNEL), asked_for_shorts(&fake)), (1, 1));
}

#[tokio::test]
async fn a_404_of_the_kind_s_feed_means_none_of_that_kind() {
    let no_shorts = |lookup: &Lookup| match lookup.channel.as_str() {
        SHORTS => StatusCode::NOT_FOUND.into_response(),
        _ => videos_only(lookup),
    };
    let fake = Fake::open(no_shorts).await;
    let server = fake.serve().await;
    let client = server.client();
    for _ in 0..2 {
        let status = ask(&client, VideoKind::Short).await.expect_err("there are none");
        assert_eq!(reason(&status).0, "NO_UPLOADS");
        assert!(status.message().contains("Short"), "{}", status.message());
    }
    assert_eq!(asked_for_shorts(&fake), 1, "that is remembered");
    client.get(CHANNEL).await.expect("the channel is as it was");
}

#[tokio::test]
async fn a_channel_that_is_not_found_is_not_asked_for_its_kinds() {
    let fake = Fake::open(|_| StatusCode::NOT_FOUND.into_response()).await;
    let server = fake.serve().await;
    let status = ask(&server.client(), VideoKind::Short)
        .await
        .expect_err("no channel");
    assert_eq!(reason(&status).0, "CHANNEL_NOT_FOUND");
    assert_eq!(asked_for_shorts(&fake), 0);
}

#[tokio::test]
async fn a_failing_feed_of_a_kind_is_told_as_such() {
    let failing = |lookup: &Lookup| match lookup.channel.as_str() {
        SHORTS => StatusCode::BAD_GATEWAY.into_response(),
        _ => videos_only(lookup),
    };
    let fake = Fake::open(failing).await;
    let server = fake.serve().await;
    let status = ask(&server.client(), VideoKind::Short)
        .await
        .expect_err("it fails");
    assert_eq!(reason(&status).0, "UPSTREAM_ERROR");
    let video = ask(&server.client(), VideoKind::Video)
        .await
        .expect("an answer")
        .0;
    assert_eq!(
        video.video.expect("an upload").channel_id,
        channel(CHANNEL).to_string()
    );
}
