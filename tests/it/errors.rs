//! Every row of the table of errors that a test can provoke, as seen by a caller.

use std::{
    num::NonZeroUsize,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
};
use futures_util::{future::join_all, stream};
use plaque::origin::{self, Lookup};
use tonic::{Code, Request, Status};

use crate::{
    raw::{MALFORMED, Raw},
    support::{CHANNEL, Fake, cache_status, feed, http_get, reason, request},
};

/// Another channel that the fake knows.
const OTHER: &str = "UC0123456789abcdefghijQA";

/// Asks for [`CHANNEL`], which `reply` answers.
async fn refused(reply: fn(&Lookup) -> Response) -> Status {
    refused_after(1, reply).await
}

/// The same, for what is worth `attempts` of plaque's own.
async fn refused_after(attempts: usize, reply: fn(&Lookup) -> Response) -> Status {
    let fake = Fake::open(reply).await;
    let server = fake.serve().await;
    let client = server.client();
    let first = client.get(CHANNEL).await.expect_err("an error");
    let second = client.get(CHANNEL).await.expect_err("the same error");
    assert_eq!(fake.lookups(CHANNEL), attempts, "the failure is remembered");
    assert_eq!(reason(&first).0, reason(&second).0);
    assert_eq!(first.message(), second.message());
    assert!(cache_status(second.metadata()).starts_with("plaque; hit; ttl="));
    first
}

/// Asserts an error that is worth another try, and says when.
fn assert_unavailable(status: &Status, expected: &str) {
    // The first pause is 5 s, a fifth more or less, and some of it has passed.
    assert_unavailable_for(3..=6, status, expected);
}

fn assert_unavailable_for(seconds: RangeInclusive<u64>, status: &Status, expected: &str) {
    let (reason, details) = reason(status);
    assert_eq!((status.code(), reason.as_str()), (Code::Unavailable, expected));
    let retry = details.retry_info().expect("a RetryInfo");
    let delay = retry.retry_delay.expect("a delay");
    let (least, most) = seconds.into_inner();
    assert!(
        delay > Duration::from_secs(least) && delay <= Duration::from_secs(most),
        "{delay:?}"
    );
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback: u128 = pushback
        .expect("a pushback")
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("a number");
    assert_eq!(pushback, delay.as_millis());
}

#[tokio::test]
async fn an_unknown_channel_is_not_found() {
    let status = refused(|_| StatusCode::NOT_FOUND.into_response()).await;
    assert_eq!(status.code(), Code::NotFound);
    let (reason, details) = reason(&status);
    assert_eq!(reason, "CHANNEL_NOT_FOUND");
    assert!(details.retry_info().is_none());
    assert_eq!(
        cache_status(status.metadata()),
        "plaque; fwd=uri-miss; fwd-status=404"
    );
}

#[tokio::test]
async fn a_channel_without_uploads_has_no_uploads() {
    let fake = Fake::open(|lookup| origin::feed(&lookup.channel, "Empty", &[])).await;
    let server = fake.serve().await;
    let client = server.client();
    for _ in 0..2 {
        let status = client.get(CHANNEL).await.expect_err("nothing to show");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status).0, "NO_UPLOADS");
    }
    assert_eq!(fake.lookups(CHANNEL), 1, "an empty feed is a good answer");
}

#[tokio::test]
async fn an_upstream_that_has_had_enough_of_us_is_left_alone() {
    let fake = Fake::open(|_| StatusCode::TOO_MANY_REQUESTS.into_response()).await;
    let server = fake.serve().await;
    let client = server.client();
    let refused = client.get(CHANNEL).await.expect_err("refused");
    assert_unavailable_for(28..=30, &refused, "UPSTREAM_RATE_LIMITED");
    let expected = "plaque; fwd=uri-miss; fwd-status=429";
    assert_eq!(cache_status(refused.metadata()), expected);
    // Nor is it asked for any other channel.
    let other = client.get(OTHER).await.expect_err("not asked");
    assert_unavailable_for(28..=30, &other, "UPSTREAM_RATE_LIMITED");
    assert_eq!((fake.lookups(CHANNEL), fake.lookups(OTHER)), (1, 0));
}

#[tokio::test]
async fn a_403_of_one_channel_is_that_channel_s() {
    let fake = Fake::open(|lookup| match lookup.channel.as_str() {
        CHANNEL => feed(lookup),
        _ => StatusCode::FORBIDDEN.into_response(),
    })
    .await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::ZERO)
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    for _ in 0..3 {
        let forbidden = client.get(OTHER).await.expect_err("403");
        assert_unavailable(&forbidden, "UPSTREAM_ERROR");
        client.get(CHANNEL).await.expect("an answer");
    }
    // It has a pause of its own; the other one is looked up each time.
    assert_eq!((fake.lookups(CHANNEL), fake.lookups(OTHER)), (4, 1));
}

#[tokio::test]
async fn a_403_of_all_channels_is_a_refusal() {
    let fake = Fake::open(|_| StatusCode::FORBIDDEN.into_response()).await;
    let server = fake.serve().await;
    let client = server.client();
    let first = client.get(CHANNEL).await.expect_err("403");
    assert_unavailable(&first, "UPSTREAM_ERROR");
    for (channel, lookups) in [(OTHER, 1), ("UC0123456789abcdefghijkQ", 0)] {
        let refused = client.get(channel).await.expect_err("refused");
        assert_unavailable_for(28..=30, &refused, "UPSTREAM_RATE_LIMITED");
        assert_eq!(fake.lookups(channel), lookups);
    }
}

#[tokio::test]
async fn a_redirect_to_the_page_for_addresses_that_ask_too_often_stops_all_lookups() {
    let fake = Fake::open(|_| {
        let page = "https://www.google.com/sorry/index?continue=x";
        (StatusCode::FOUND, [("location", page)]).into_response()
    })
    .await;
    let server = fake
        .serve_with(|config| config.upstream.pace.concurrency = NonZeroUsize::MIN.saturating_add(3))
        .await;
    let client = server.client();
    let ids: Vec<_> = (0..40).map(|number| format!("UC{number:021}A")).collect();
    let refused = join_all(ids.iter().map(|id| client.get(id))).await;
    for refused in refused {
        let refused = refused.expect_err("refused");
        assert_unavailable_for(28..=30, &refused, "UPSTREAM_RATE_LIMITED");
    }
    let asked: usize = ids.iter().map(|id| fake.lookups(id)).sum();
    assert!((1..=4).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_refusal_lasts_as_long_as_the_upstream_says() {
    for (requested, reported) in [("3", 2..=3), ("99999", 3598..=3600)] {
        let reply = match requested {
            "3" => |_: &Lookup| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3")]).into_response(),
            _ => |_: &Lookup| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "99999")]).into_response(),
        };
        let fake = Fake::open(reply).await;
        let server = fake.serve().await;
        for _ in 0..2 {
            let refused = server.client().get(CHANNEL).await.expect_err("refused");
            assert_unavailable_for(reported.clone(), &refused, "UPSTREAM_RATE_LIMITED");
        }
        assert_eq!(fake.lookups(CHANNEL), 1);
    }
}

#[tokio::test]
async fn cached_answers_are_served_while_the_upstream_refuses_us() {
    let fake = Fake::open(|lookup| match (lookup.channel.as_str(), lookup.number) {
        (CHANNEL, 1) => feed(lookup),
        _ => StatusCode::TOO_MANY_REQUESTS.into_response(),
    })
    .await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    client.get(OTHER).await.expect_err("refused");
    let mut newer = request(CHANNEL);
    newer.max_age = Some(prost_types::Duration::default());
    let (kept, _) = client.ask(Request::new(newer)).await.expect("the kept answer");
    assert!(kept.video.is_some());
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn retry_after_of_the_upstream_is_obeyed() {
    let unavailable =
        |_: &Lookup| (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "120")]).into_response();
    assert_unavailable_for(118..=120, &refused(unavailable).await, "UPSTREAM_ERROR");
    let date = |_: &Lookup| {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_mins(5));
        (StatusCode::BAD_GATEWAY, [("retry-after", date)]).into_response()
    };
    assert_unavailable_for(297..=300, &refused(date).await, "UPSTREAM_ERROR");
    let nonsense = |_: &Lookup| (StatusCode::NOT_IMPLEMENTED, [("retry-after", "soon")]).into_response();
    assert_unavailable(&refused_after(2, nonsense).await, "UPSTREAM_ERROR");
}

#[tokio::test]
async fn an_upstream_that_fails_once_is_asked_again_at_once() {
    let flaky = |lookup: &Lookup| match lookup.number {
        1 => StatusCode::BAD_GATEWAY.into_response(),
        _ => feed(lookup),
    };
    let fake = Fake::open(flaky).await;
    let server = fake.serve().await;
    server.client().get(CHANNEL).await.expect("an answer");
    assert_eq!(fake.lookups(CHANNEL), 2);
}

#[tokio::test]
async fn an_upstream_that_fails_is_unavailable() {
    let status = refused_after(2, |_| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    assert_unavailable(&status, "UPSTREAM_ERROR");
    assert!(status.message().contains("500"), "{}", status.message());
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_unavailable() {
    let cut_off = |lookup: &Lookup| {
        let (parts, _) = feed(lookup).into_parts();
        let start = stream::iter([Ok(Bytes::from_static(b"<feed")), Err("cut off")]);
        Response::from_parts(parts, Body::from_stream(start))
    };
    assert_unavailable(&refused_after(2, cut_off).await, "UPSTREAM_ERROR");
}

#[tokio::test]
async fn an_answer_that_is_no_feed_is_malformed() {
    let html = refused(|_| Html("<!doctype html><title>Before you continue</title>").into_response());
    assert_unavailable(&html.await, "UPSTREAM_MALFORMED");
    let garbage = refused(|_| [0_u8, 159, 146, 150].repeat(999).into_response());
    assert_unavailable(&garbage.await, "UPSTREAM_MALFORMED");
    let nothing = refused(|_| StatusCode::OK.into_response());
    assert_unavailable(&nothing.await, "UPSTREAM_MALFORMED");
    let consent = refused(|_| Redirect::to("https://consent.youtube.com/m").into_response());
    assert_unavailable(&consent.await, "UPSTREAM_MALFORMED");
}

#[tokio::test]
async fn an_upstream_that_hangs_times_out() {
    let fake = Fake::gated(feed).await;
    let limit = Duration::from_millis(20);
    let server = fake.serve_with(|config| config.upstream.time_limit = limit).await;
    let status = server.client().get(CHANNEL).await.expect_err("it hangs");
    assert_unavailable(&status, "UPSTREAM_TIMEOUT");
    assert!(status.message().contains("20ms"), "{}", status.message());
}

#[tokio::test]
async fn a_caller_whose_deadline_passes_gets_deadline_exceeded() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let mut request = Request::new(request(CHANNEL));
    request.set_timeout(Duration::from_millis(30));
    let status = server.client().ask(request).await.expect_err("too early");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status).0, "DEADLINE");
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_the_maximum_which_also_limits_others() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.calls.deadline = Duration::from_millis(30))
        .await;
    let mut generous = Request::new(request(CHANNEL));
    generous.set_timeout(Duration::from_hours(1));
    for request in [Request::new(request(CHANNEL)), generous] {
        let status = server.client().ask(request).await.expect_err("the gate is shut");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(reason(&status).0, "DEADLINE");
    }
}

#[tokio::test]
async fn a_deadline_that_cannot_be_read_is_an_invalid_argument() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    for malformed in ["5", "5x", "123456789S", "-1S"] {
        let mut request = Request::new(request(CHANNEL));
        let timeout = malformed.parse().expect("ASCII");
        request.metadata_mut().insert("grpc-timeout", timeout);
        let status = client.ask(request).await.expect_err(malformed);
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed}");
        assert_eq!(reason(&status).0, "INVALID_TIMEOUT");
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
}

#[tokio::test]
async fn a_bad_request_names_the_field_and_is_not_looked_up() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let long = "x".repeat(10_000);
    let bad_ids = ["", "UC", "UC0123456789abcdefghijkB", "@handle", &long];
    let mut cases: Vec<_> = bad_ids
        .into_iter()
        .map(|id| (request(id), "INVALID_CHANNEL_ID", "channel_id"))
        .collect();
    let mut unknown_kind = request(CHANNEL);
    unknown_kind.kind = 9;
    cases.push((unknown_kind, "INVALID_KIND", "kind"));
    for (seconds, nanos) in [(-1, 0), (0, -1), (1, 1_000_000_000), (i64::MIN, i32::MIN)] {
        let mut bad_age = request(CHANNEL);
        bad_age.max_age = Some(prost_types::Duration { seconds, nanos });
        cases.push((bad_age, "INVALID_MAX_AGE", "max_age"));
    }

    for (request, expected, field) in cases {
        let shown = format!("{request:?}").chars().take(80).collect::<String>();
        let status = client.ask(Request::new(request)).await.expect_err(&shown);
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}");
        let (reason, details) = reason(&status);
        assert_eq!(reason, expected, "{shown}");
        let violations = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations[0].field, field, "{shown}");
        assert!(status.message().len() < 200, "{}", status.message());
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let status = client.get(&"x".repeat(17 << 10)).await.expect_err("too long");
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(reason(&status).0, "MESSAGE_TOO_LARGE");
    assert!(status.message().contains("16384 bytes"), "{status:?}");
}

#[tokio::test]
async fn a_malformed_message_is_an_invalid_argument() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    for method in ["GetLatestVideo", "BatchGetLatestVideos", "WatchLatestVideo"] {
        let method = format!("plaque.v1.LatestVideo/{method}");
        let mut peer = Raw::connect(server.address).await;
        for (body, what) in MALFORMED {
            let response = peer.call_with(&method, *body).await;
            let status = Status::from_header_map(response.headers()).expect("an end");
            let (name, _) = reason(&status);
            assert_eq!(
                (status.code(), name.as_str()),
                (Code::InvalidArgument, "MALFORMED_MESSAGE"),
                "{method}, {what}: {status:?}"
            );
        }
        // gRPC demands INTERNAL: the server does not know what is in it.
        let response = peer.call_with(&method, &b"\x01\0\0\0\x02\x1f\x8b"[..]).await;
        assert_eq!(response.headers()["grpc-status"], "13", "{method}");
    }
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    for method in ["GetLatestVideo", "BatchGetLatestVideos", "WatchLatestVideo"] {
        let counted = format!(
            "rpc_method=\"plaque.v1.LatestVideo/{method}\",rpc_response_status_code=\"INVALID_ARGUMENT\"}} {}\n",
            MALFORMED.len()
        );
        assert!(metrics.contains(&counted), "{metrics}");
    }
}
