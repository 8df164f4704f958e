//! Many channels in one round trip.

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::proto::v1::{
    BatchGetLatestVideosRequest, BatchGetLatestVideosResponse, LookupResult, VideoKind,
    lookup_result::Outcome,
};
use tonic::{Code, Response, Status};

use crate::support::{CHANNEL, Client, Fake, cache_status, feed, reason};

const GONE: &str = "UCgonegonegonegonegonegA";

async fn batch(client: &Client, ids: &[&str]) -> Result<Response<BatchGetLatestVideosResponse>, Status> {
    let request = BatchGetLatestVideosRequest {
        channel_ids: ids.iter().map(ToString::to_string).collect(),
        ..BatchGetLatestVideosRequest::default()
    };
    client.0.clone().batch_get_latest_videos(request).await
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("UC{number:021}A")).collect()
}

/// The video ID, or the reason and code of the failure.
fn outcome(result: &LookupResult) -> Result<&str, (&str, Code)> {
    match result.outcome.as_ref().expect("always set") {
        Outcome::Found(found) => Ok(&found.video.as_ref().expect("always set").video_id),
        Outcome::Failure(failure) => Err((&failure.reason, Code::from(failure.code))),
    }
}

#[tokio::test]
async fn every_channel_has_its_result_in_the_order_asked() {
    let fake = Fake::open(|lookup| match lookup.channel.as_str() {
        GONE => StatusCode::NOT_FOUND.into_response(),
        _ => feed(lookup),
    })
    .await;
    let server = fake.serve().await;
    let asked = [GONE, CHANNEL, "nonsense", CHANNEL];
    let response = batch(&server.client(), &asked).await.expect("it succeeds");
    assert_eq!(
        cache_status(response.metadata()),
        "plaque; fwd=miss; detail=\"hit=0 fwd=3\""
    );
    let results = response.into_inner().results;
    let told: Vec<_> = results.iter().map(|result| result.channel_id.as_str()).collect();
    assert_eq!(told, asked);
    let outcomes: Vec<_> = results.iter().map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            Err(("CHANNEL_NOT_FOUND", Code::NotFound)),
            Ok("upload0015A"),
            Err(("INVALID_CHANNEL_ID", Code::InvalidArgument)),
            Ok("upload0015A"),
        ]
    );
    assert_eq!(fake.lookups(CHANNEL), 1, "asked for twice, looked up once");

    let again = batch(&server.client(), &[CHANNEL]).await.expect("it succeeds");
    let made = cache_status(again.metadata());
    assert_eq!(made, "plaque; hit; detail=\"hit=1 fwd=0\"");
}

#[tokio::test]
async fn all_channels_are_looked_up_at_once() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let asked = ids(20);
    let call = tokio::spawn(async move {
        let asked: Vec<_> = asked.iter().map(String::as_str).collect();
        batch(&client, &asked).await
    });
    for _ in 0..20 {
        fake.arrival().await; // nobody was let through: they all wait at the gate together
    }
    for _ in 0..20 {
        fake.release();
    }
    let results = call
        .await
        .expect("no panic")
        .expect("it succeeds")
        .into_inner()
        .results;
    assert!(results.iter().all(|result| outcome(result).is_ok()));
}

#[tokio::test]
async fn a_kind_is_for_every_channel() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let request = BatchGetLatestVideosRequest {
        channel_ids: ids(2),
        kind: VideoKind::Short.into(),
        ..BatchGetLatestVideosRequest::default()
    };
    let response = server.client().0.batch_get_latest_videos(request).await;
    let results = response.expect("it succeeds").into_inner().results;
    let outcomes: Vec<_> = results.iter().map(outcome).collect();
    assert_eq!(outcomes, [Ok("upload0013A"), Ok("upload0013A")]);
}

#[tokio::test]
async fn a_batch_has_1_to_100_channels() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let many = ids(101);
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    batch(&client, &many[..100]).await.expect("100 are not too many");
    for (asked, expected) in [(&many[..], "TOO_MANY_CHANNELS"), (&[], "NO_CHANNELS")] {
        let status = batch(&client, asked).await.expect_err(expected);
        assert_eq!(status.code(), Code::InvalidArgument);
        let (reason, details) = reason(&status);
        assert_eq!(reason, expected);
        let violations = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations[0].field, "channel_ids");
    }
}
