//! Videos and Shorts: which feed is looked up for each kind.

use std::{
    num::NonZeroUsize,
    time::{Duration, SystemTime},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use plaque::{
    origin::{self, Lookup, Origin, Upload},
    proto::v1::{GetLatestVideoRequest, VideoKind},
    upstream::{Feed, LookupRequest, Purpose, Upstream as _},
    video::Kind,
    youtube::YouTube,
};
use tonic::Request;

use crate::support::{Answered, CHANNEL, Client, Fake, channel, reason, request, upstream};

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
async fn a_failing_feed_of_a_kind_is_reported_as_an_error() {
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

/// The lists of [`CHANNEL`]'s videos and of its streams.
const VIDEOS: &str = "UULF0123456789abcdefghijkA";
const STREAMS: &str = "UULV0123456789abcdefghijkA";

fn of_day(id: &str, short: bool, day: u64) -> Upload {
    Upload {
        published: SystemTime::UNIX_EPOCH + Duration::from_hours(480_000 + 24 * day),
        ..upload(id, short)
    }
}

/// What becomes of a question for VIDEO, where the channel's own feed has Shorts only, and which lists were asked.
async fn video(reply: fn(&Lookup) -> Option<Response>) -> (Result<String, String>, [usize; 2]) {
    let reply = move |lookup: &Lookup| match lookup.channel.as_str() {
        CHANNEL => origin::feed(CHANNEL, "Name", &[of_day("shortshortA", true, 30)]),
        _ => reply(lookup).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response()),
    };
    let origin = Origin::start(move |lookup| async move { reply(&lookup) })
        .await
        .expect("a free port");
    let mut settings = upstream(&origin);
    // Each request has a turn of its own: one would be waiting for the other if they held them together.
    settings.pace.concurrency = NonZeroUsize::MIN;
    let youtube = YouTube::new(settings).expect("a client");
    let feed = Feed {
        channel: channel(CHANNEL),
        kind: Some(Kind::Video),
    };
    let found = youtube.look_up(feed, LookupRequest::of(Purpose::Awaited)).await;
    let found = found.map_err(|failure| failure.to_string()).map(|channel| {
        let newest = channel.upload(0).map(|video| (video.kind(), video.id()));
        match newest {
            Some((Kind::Video, id)) => format!("{}: {id}", channel.title()),
            other => format!("{}: {other:?}", channel.title()),
        }
    });
    (found, [VIDEOS, STREAMS].map(|list| origin.lookups_of(list)))
}

fn list(id: &str, day: u64) -> Response {
    origin::feed(CHANNEL, "Name", &[of_day(id, false, day)])
}

#[tokio::test]
async fn a_stream_is_a_video_and_the_newer_of_both_counts() {
    let stream_is_newer = video(|lookup| match lookup.channel.as_str() {
        VIDEOS => Some(list("videovideoA", 1)),
        _ => Some(list("streamstreA", 10)),
    });
    assert_eq!(stream_is_newer.await, (Ok("Name: streamstreA".into()), [1, 1]));
    let video_is_newer = video(|lookup| match lookup.channel.as_str() {
        VIDEOS => Some(list("videovideoA", 10)),
        _ => Some(list("streamstreA", 1)),
    });
    assert_eq!(video_is_newer.await, (Ok("Name: videovideoA".into()), [1, 1]));
}

#[tokio::test]
async fn one_of_the_two_lists_may_be_missing() {
    let streams_alone = video(|lookup| (lookup.channel == STREAMS).then(|| list("streamstreA", 10)));
    assert_eq!(streams_alone.await, (Ok("Name: streamstreA".into()), [1, 1]));
    let videos_alone = video(|lookup| (lookup.channel == VIDEOS).then(|| list("videovideoA", 10)));
    assert_eq!(videos_alone.await, (Ok("Name: videovideoA".into()), [1, 1]));
    let neither = video(|_| None).await;
    assert_eq!(
        neither,
        (Err("the upstream knows no such channel".into()), [1, 1])
    );
}

#[tokio::test]
async fn a_failure_of_one_list_is_one_of_both() {
    let (failed, asked) = video(|lookup| match lookup.channel.as_str() {
        VIDEOS => Some(list("videovideoA", 10)),
        _ => Some(StatusCode::SERVICE_UNAVAILABLE.into_response()),
    })
    .await;
    assert_eq!(asked, [1, 2], "once more, as any that fails so");
    assert_eq!(failed, Err("the upstream answered HTTP 503".into()));
    // The other need not be asked any more.
    let (_, asked) =
        video(|lookup| (lookup.channel == VIDEOS).then(|| StatusCode::IM_A_TEAPOT.into_response())).await;
    assert_eq!(asked, [1, 0]);
}

#[tokio::test]
async fn a_list_of_streams_that_shows_shorts_shows_no_videos() {
    let (found, _) = video(|lookup| match lookup.channel.as_str() {
        VIDEOS => Some(list("videovideoA", 1)),
        _ => Some(origin::feed(
            CHANNEL,
            "Name",
            &[of_day("shortshortA", true, 30), of_day("streamstreA", false, 2)],
        )),
    })
    .await;
    assert_eq!(found, Ok("Name: streamstreA".into()));
}

#[tokio::test]
async fn a_caller_is_given_the_stream() {
    let fake = Fake::open(|lookup| match lookup.channel.as_str() {
        CHANNEL => origin::feed(CHANNEL, "Name", &[of_day("shortshortA", true, 30)]),
        VIDEOS => StatusCode::NOT_FOUND.into_response(),
        _ => origin::feed(CHANNEL, "Name", &[of_day("streamstreA", false, 10)]),
    })
    .await;
    let server = fake.serve().await;
    for _ in 0..3 {
        let (answer, _) = ask(&server.client(), VideoKind::Video).await.expect("an answer");
        let video = answer.video.expect("an upload");
        assert_eq!(
            (video.video_id.as_str(), video.kind()),
            ("streamstreA", VideoKind::Video)
        );
    }
    assert_eq!([VIDEOS, STREAMS].map(|list| fake.origin.lookups_of(list)), [1, 1]);
}
