//! `BatchGetLatestVideos`: many channels in one call.

use std::{sync::Arc, time::Duration};

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::{
    latest::{Latest, Query},
    proto::v1::{
        BatchGetLatestVideosRequest, BatchGetLatestVideosResponse, LookupResult, VideoKind,
        lookup_result::Outcome,
    },
    upstream::Upstream,
};
use prost::Message as _;
use tokio::{runtime::Handle, time::Instant};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _, pb};

use crate::{
    stores,
    support::{CHANNEL, Client, Fake, LONG, cache_status, feed, http_get, reason, request},
};

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
    let returned: Vec<_> = results.iter().map(|result| result.channel_id.as_str()).collect();
    assert_eq!(returned, asked);
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
    let cache_status = cache_status(again.metadata());
    assert_eq!(cache_status, "plaque; hit; detail=\"hit=1 fwd=0\"");
}

#[tokio::test]
async fn a_failure_has_the_status_of_a_call_for_its_channel() {
    const FAILS: &str = "UC0123456789abcdefghijkA";
    let fake = Fake::open(|lookup| match lookup.channel.as_str() {
        GONE => StatusCode::NOT_FOUND.into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    })
    .await;
    let server = fake.serve().await;
    let client = server.client();
    for (id, has_retry) in [(GONE, false), (FAILS, true), ("nonsense", false)] {
        let call = client.0.clone().get_latest_video(request(id)).await;
        let call = call.expect_err("it fails");
        let results = batch(&client, &[id])
            .await
            .expect("it succeeds")
            .into_inner()
            .results;
        let Some(Outcome::Failure(failure)) = &results[0].outcome else {
            panic!("{results:?}");
        };
        let status = failure.status.clone().expect("always set");
        assert_eq!(
            (status.code, &*status.message),
            (call.code().into(), call.message())
        );
        assert_eq!((status.code, &status.message), (failure.code, &failure.message));
        let [own, of_call] = [status, pb::Status::decode(call.details()).expect("a status")];
        let types = |status: &pb::Status| -> Vec<_> {
            status
                .details
                .iter()
                .map(|detail| detail.type_url.clone())
                .collect()
        };
        assert_eq!(types(&own), types(&of_call));
        let details = own.get_error_details();
        let info = |details: &ErrorDetails| format!("{:?}{:?}", details.error_info(), details.bad_request());
        assert_eq!(info(&details), info(&call.get_error_details()));
        // How long is left differs between calls.
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(
            retry,
            failure
                .retry_after
                .map(|pause| pause.try_into().expect("positive"))
        );
        assert_eq!(retry.is_some(), has_retry);
    }
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
        fake.arrival().await; // all lookups wait at the gate together
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

/// A channel that no upstream of these tests answers.
const SLOW: &str = "UCslowslowslowslowslow0A";

/// Answers the first 99 lookups.
fn all_but_one() -> Arc<stores::Fake> {
    Arc::new(stores::Fake::with(stores::found, 99, LONG))
}

fn latest(upstream: &Arc<stores::Fake>) -> Latest {
    let port = Arc::clone(upstream) as Arc<dyn Upstream>;
    Latest::new(port, None, stores::settings(), Handle::current())
}

fn queries(count: usize) -> Vec<Query> {
    let query = |id: String| Query {
        channel: id.parse().expect("a channel ID"),
        kind: None,
        max_age: None,
    };
    ids(count).into_iter().map(query).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_when_all_answers_are_there_or_at_its_deadline() {
    let upstream = all_but_one();
    let latest = latest(&upstream);
    let queries = queries(100);
    let began = Instant::now();
    let replies = latest.get_all(&queries[..99], LONG).await;
    assert!(replies.iter().all(Option::is_some));
    assert_eq!(began.elapsed(), Duration::ZERO);

    let within = Duration::from_secs(3);
    let replies = latest.get_all(&queries, within).await;
    // The clock of tokio has milliseconds.
    assert_eq!(began.elapsed().as_secs(), within.as_secs());
    for (query, reply) in queries.iter().zip(&replies[..99]) {
        let answer = reply.as_ref().expect("in time").outcome.as_ref().expect("known");
        assert_eq!(answer.channel().id(), query.channel);
    }
    assert!(replies[99].is_none());
    assert_eq!((latest.waiting(), latest.flights()), (0, 1), "the lookup goes on");

    let late = latest.get_all(&queries, Duration::ZERO).await;
    assert_eq!(late.iter().flatten().count(), 99, "what is known takes no time");
}

#[tokio::test(start_paused = true)]
async fn of_a_cold_batch_all_are_given_that_came_in_time() {
    let upstream = all_but_one();
    let latest = latest(&upstream);
    let replies = latest.get_all(&queries(100), Duration::from_secs(3)).await;
    assert_eq!(replies.iter().flatten().count(), 99);
    assert_eq!(upstream.lookups(), 100);
}

#[tokio::test]
async fn a_channel_that_is_late_costs_the_others_nothing() {
    let short = Duration::from_millis(100);
    for (longest, asked) in [(LONG, Some(short)), (short, None), (short, Some(LONG))] {
        let fake = Fake::gated(feed).await;
        let server = fake.serve_with(|config| config.calls.deadline = longest).await;
        let client = server.client();
        fake.release();
        // However slow the machine is: a lookup goes on when its caller's deadline is over.
        while client.get(CHANNEL).await.is_err() {}

        let mut batch = Request::new(BatchGetLatestVideosRequest {
            channel_ids: [SLOW, CHANNEL, SLOW, "nonsense"].map(String::from).into(),
            ..BatchGetLatestVideosRequest::default()
        });
        if let Some(asked) = asked {
            batch.set_timeout(asked);
        }
        let response = client.0.clone().batch_get_latest_videos(batch).await;
        let response = response.expect("it succeeds");
        assert_eq!(
            cache_status(response.metadata()),
            "plaque; fwd=miss; detail=\"hit=1 fwd=2\""
        );
        let results = response.into_inner().results;
        let outcomes: Vec<_> = results.iter().map(outcome).collect();
        let late = Err(("DEADLINE", Code::DeadlineExceeded));
        let invalid = Err(("INVALID_CHANNEL_ID", Code::InvalidArgument));
        assert_eq!(outcomes, [late, Ok("upload0015A"), late, invalid]);

        // A single call has nothing else to give.
        let mut single = Request::new(request(SLOW));
        single.set_timeout(short);
        let status = client.ask(single).await.expect_err("too late");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        fake.release();
    }
}

#[tokio::test]
async fn repeats_in_a_batch_count_as_one_waiter() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve_with(|config| config.latest.max_waiters = 1).await;
    let client = server.client();
    let call = tokio::spawn(async move { batch(&client, &[CHANNEL; 100]).await });
    fake.arrival().await;
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    assert!(metrics.contains("\nplaque_waiters 1\n"), "{metrics}");
    fake.release();
    let response = call.await.expect("no panic").expect("it succeeds");
    assert_eq!(
        cache_status(response.metadata()),
        "plaque; fwd=miss; detail=\"hit=0 fwd=100\""
    );
    let results = response.into_inner().results;
    let outcomes: Vec<_> = results.iter().map(outcome).collect();
    assert_eq!(outcomes, [Ok("upload0015A"); 100]);
    // As if each had come by itself.
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    for (how, count) in [("miss", 1), ("collapsed", 99), ("hit", 0)] {
        let counted = format!("\nplaque_lookups_total{{cache_status=\"{how}\"}} {count}\n");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
}
