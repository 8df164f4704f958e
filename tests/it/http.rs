//! HTTP/1.1: the JSON API, what is busy, and the status page.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use plaque::{
    cache_entry::CacheEntry,
    clock, grpc,
    latest::{Latest, Query},
    origin,
    proto::v1::WatchLatestVideoRequest,
    resolver::Resolver,
    upstream::UpstreamError,
    video::{Channel, Kind},
};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::store_memory::Memory;
use crate::stores::{self, Kind as _, upload};
use crate::support::{CHANNEL, Fake, Server, feed, http_ask, http_get, http_get_whole, http_get_with};

async fn ask(server: &Server, rest: &str) -> (u16, String, Value) {
    let path = format!("/v1/channels/{rest}");
    let (status, head, body) = http_get_whole(server.http, &path).await;
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, head, serde_json::from_str(&body).expect("JSON"))
}

pub fn error_info(body: &Value) -> (&str, &str) {
    let details = body["details"].as_array().expect("details");
    let info = details
        .iter()
        .find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo");
    let info = info.expect("an ErrorInfo");
    (
        info["domain"].as_str().expect("text"),
        info["reason"].as_str().expect("text"),
    )
}

#[tokio::test]
async fn an_answer_is_canonical_json_with_what_caches_need_to_know() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let path = format!("{CHANNEL}/latest-video");
    let (status, head, body) = ask(&server, &path).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["video"]["channelId"], CHANNEL);
    assert_eq!(body["video"]["kind"], "VIDEO_KIND_VIDEO");
    assert_eq!(body["video"]["publishTime"], "2027-01-15T08:00:00Z");
    assert!(body["freshness"]["fetchTime"].is_string());
    assert!(head.contains("\r\ncache-status: plaque; fwd=uri-miss"), "{head}");
    assert!(head.contains("\r\nage: 0"), "{head}");
    let keep = "\r\ncache-control: public, max-age=600, stale-while-revalidate=0, stale-if-error=600";
    assert!(head.contains(keep), "{head}");

    let (_, head, again) = ask(&server, &path).await;
    assert!(head.contains("\r\ncache-status: plaque; hit; ttl="), "{head}");
    assert_eq!(again, body);
    assert_eq!(fake.lookups(CHANNEL), 1);
}

/// A request without parameters does not go through the router; one with an empty query does.
#[tokio::test]
async fn a_plain_request_is_answered_as_the_router_would() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    ask(&server, &format!("{CHANNEL}/latest-video")).await;
    for (channel, expected) in [(CHANNEL, 200), ("UC", 400), ("UC-_", 400)] {
        let plain = ask(&server, &format!("{channel}/latest-video")).await;
        let routed = ask(&server, &format!("{channel}/latest-video?")).await;
        assert_eq!(plain.0, expected, "{channel}");
        let head = |(_, head, _): &(u16, String, Value)| -> Vec<String> {
            let timed = ["date:", "age:", "cache-status:"];
            let lines = head
                .lines()
                .filter(|line| !timed.iter().any(|name| line.starts_with(name)));
            // In whichever order.
            let mut lines: Vec<_> = lines.map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(
            (plain.0, head(&plain), &plain.2),
            (routed.0, head(&routed), &routed.2)
        );
    }
    let (status, _, body) = ask(&server, "%FF/latest-video").await;
    assert_eq!((status, error_info(&body).1), (400, "MALFORMED_MESSAGE"));
    // Not even a slash more.
    for path in [
        "//latest-video",
        "/v1/channels/latest-video",
        "/v1/channels/a/b/latest-video",
    ] {
        assert_eq!(http_get(server.http, path).await.0, 404, "{path}");
    }
}

/// A header's number.
fn number(headers: &HeaderMap, name: &str, before: &str) -> Option<i64> {
    let text = headers.get(name)?.to_str().expect("ASCII");
    let (_, number) = text.split_once(before)?;
    let number = number.split([';', ',']).next().expect("the first");
    Some(number.parse().expect("a number"))
}

#[tokio::test]
async fn the_age_header_agrees_with_the_cache_status() {
    let [seconds, minutes, hour] = [30, 300, 3600].map(Duration::from_secs);
    // Fresh; given before it is looked up; looked up; given since that failed, and again.
    for (age, fails, asked) in [
        (seconds, false, &["hit"][..]),
        (minutes, true, &["hit"]),
        (hour, false, &["fwd", "hit"]),
        (hour, true, &["fwd", "hit"]),
    ] {
        let memory = Memory::new();
        let at = clock::now().checked_sub(age).expect("the machine runs since");
        let channel = Channel::new(stores::feed().channel, "kept", vec![upload(1, Kind::Video)]);
        // Whatever the wall clock case.
        let known = CacheEntry::succeeded(Arc::new(channel), at, SystemTime::UNIX_EPOCH);
        stores::saved_before(&memory, stores::feed(), &known).await;
        let upstream = if fails {
            stores::Fake::open(stores::fails(UpstreamError::Status(503)))
        } else {
            stores::Fake::open(stores::found)
        };
        let latest = Arc::new(Latest::new(
            upstream,
            Some(memory.open().await),
            stores::settings(),
            Handle::current(),
        ));
        // From memory from here on, where it was in the store.
        let warm = Query {
            max_age: Some(hour * 2),
            ..stores::query()
        };
        latest.get(warm).await.outcome.expect("kept");
        let policy = stores::settings().policy;
        let http = grpc::JsonService::new(
            latest,
            Resolver::new(
                vec![],
                None,
                plaque::youtube::Pace::default(),
                1,
                Handle::current(),
            ),
            policy,
            grpc::Limits::default(),
            Arc::default(),
            Arc::default(),
        );
        for how in asked {
            let id = stores::feed().channel.to_string();
            let response = http
                .latest_video(grpc::Peer::default(), &HeaderMap::new(), id, vec![])
                .await;
            let headers = response.headers();
            let case = format!("{age:?}, {fails}, {headers:?}");
            assert!(
                headers["cache-status"].to_str().expect("ASCII").contains(how),
                "{case}"
            );
            let age_header = number(headers, "age", "").expect("an age");
            let fresh_for = number(headers, "cache-control", "max-age=").expect("set");
            match number(headers, "cache-status", "ttl=") {
                Some(ttl) => assert_eq!(age_header + ttl, fresh_for, "{case}"),
                None if fails => assert!((3600..3660).contains(&age_header), "{case}"),
                None => assert_eq!(age_header, 0, "{case}"),
            }
        }
    }
}

#[tokio::test]
async fn the_other_fields_are_parameters() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    for (parameters, expected) in [
        ("", 200),
        ("?kind=VIDEO_KIND_VIDEO", 200),
        ("?kind=video&max_age=3600s", 200),
        ("?kind=1", 200),
        ("?kind=Any", 200),
        ("?maxAge=0.5s", 200),
    ] {
        let (status, _, body) = ask(&server, &format!("{CHANNEL}/latest-video{parameters}")).await;
        assert_eq!(status, expected, "{parameters}: {body}");
    }
    let before = fake.lookups(CHANNEL);
    let (_, head, _) = ask(&server, &format!("{CHANNEL}/latest-video?max_age=0s")).await;
    assert!(head.contains("cache-status: plaque; fwd=request"), "{head}");
    assert_eq!(fake.lookups(CHANNEL), before + 1);
    for (parameters, reason) in [
        ("?kind=film", "INVALID_KIND"),
        ("?kind=7", "INVALID_KIND"),
        ("?max_age=soon", "INVALID_MAX_AGE"),
        ("?max_age=-1s", "INVALID_MAX_AGE"),
        ("?maxage=1s", "UNKNOWN_PARAMETER"),
    ] {
        let (status, _, body) = ask(&server, &format!("{CHANNEL}/latest-video{parameters}")).await;
        assert_eq!(
            (status, error_info(&body)),
            (400, ("plaque", reason)),
            "{parameters}: {body}"
        );
    }
}

#[tokio::test]
async fn an_error_is_a_status_with_its_details() {
    let fake = Fake::open(|_| StatusCode::NOT_FOUND.into_response()).await;
    let server = fake.serve().await;
    let (status, head, body) = ask(&server, &format!("{CHANNEL}/latest-video")).await;
    assert_eq!((status, &body["code"]), (404, &json!(5)));
    assert_eq!(error_info(&body), ("plaque", "CHANNEL_NOT_FOUND"));
    assert!(head.contains("\r\ncache-control: no-store"), "{head}");
    assert!(
        head.contains("\r\ncache-status: plaque; fwd=uri-miss; fwd-status=404"),
        "{head}"
    );

    let (status, _, body) = ask(&server, "UCnonsense/latest-video").await;
    assert_eq!(
        (status, error_info(&body)),
        (400, ("plaque", "INVALID_CHANNEL_ID"))
    );
    let field = json!("channel_id");
    let details = body["details"].as_array().expect("details");
    assert!(
        details
            .iter()
            .any(|detail| detail["fieldViolations"][0]["field"] == field),
        "{body}"
    );
}

#[tokio::test]
async fn a_transient_error_has_a_retry_after() {
    let fake = Fake::open(|_| StatusCode::TOO_MANY_REQUESTS.into_response()).await;
    let server = fake.serve().await;
    let (status, head, body) = ask(&server, &format!("{CHANNEL}/latest-video")).await;
    assert_eq!((status, &body["code"]), (503, &json!(14)));
    assert_eq!(error_info(&body), ("plaque", "UPSTREAM_RATE_LIMITED"));
    assert!(head.contains("\r\nretry-after: 30"), "{head}");
}

#[tokio::test]
async fn a_lookup_that_takes_too_long_is_a_gateway_timeout() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.calls.deadline = std::time::Duration::from_millis(20))
        .await;
    let (status, _, body) = ask(&server, &format!("{CHANNEL}/latest-video")).await;
    assert_eq!((status, error_info(&body)), (504, ("plaque", "DEADLINE")));
    fake.release();
}

#[tokio::test]
async fn the_busiest_channels_and_flights_are_listed() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let calls = server.client().start_many(CHANNEL, 2).await;
    fake.arrival().await;
    let busy = async || -> Value {
        let (status, body) = http_get(server.admin, "/busy").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).expect("JSON")
    };
    let shown = busy().await;
    assert_eq!(shown["flights"][0]["channelId"], CHANNEL);
    assert_eq!(shown["flights"][0]["waiters"], 2);
    assert!(shown["flights"][0]["ageSeconds"].as_f64().expect("a number") > 0.0);
    assert_eq!(shown["busiest"], json!([]));
    fake.release();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    server.client().get(CHANNEL).await.expect("a hit");
    // The list of the busiest is cached for some microseconds.
    let shown = loop {
        let shown = busy().await;
        if shown["busiest"] != json!([]) {
            break shown;
        }
    };
    assert_eq!(shown["flights"], json!([]));
    assert_eq!(shown["busiest"][0]["channelId"], CHANNEL);
    assert_eq!(shown["busiest"][0]["title"], "A channel");
    assert_eq!(shown["busiest"][0]["asked"], 3);
    // Of the time since the start, which is no less than a second.
    let rate = shown["busiest"][0]["askedPerSecond"].as_f64().expect("a number");
    assert!(rate > 0.0 && rate <= 3.0, "{rate}");
}

#[tokio::test]
async fn polls_make_no_channel_busy() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let watch = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let watch = server.client().0.watch_latest_video(watch).await;
    let mut events = watch.expect("a watch").into_inner();
    events.message().await.expect("no error").expect("an event");
    let (_, busy) = http_get(server.admin, "/busy").await;
    let busy: Value = serde_json::from_str(&busy).expect("JSON");
    assert_eq!((&busy["busiest"], &busy["flights"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn the_newest_uploads_of_all_channels_and_the_sources_are_listed() {
    // The newest upload of this channel is an hour newer than that of others.
    let fake = Fake::open(|lookup| {
        let hours = if lookup.channel == CHANNEL {
            400_001
        } else {
            400_000
        };
        let newest = SystemTime::UNIX_EPOCH + Duration::from_hours(hours);
        origin::feed(&lookup.channel, "A channel", &origin::uploads(newest, 15))
    })
    .await;
    let server = fake.serve().await;
    let other = "UCother6789abcdefghijklA";
    for channel in [other, CHANNEL, other] {
        server.client().get(channel).await.expect("an answer");
    }
    let (_, busy) = http_get(server.admin, "/busy").await;
    let busy: Value = serde_json::from_str(&busy).expect("JSON");
    let newest = busy["newest"].as_array().expect("a list");
    assert_eq!(newest.len(), 12);
    assert_eq!(
        (&newest[0]["channelId"], &newest[1]["channelId"]),
        (&json!(CHANNEL), &json!(other))
    );
    let ages: Vec<_> = newest.iter().map(|row| row["ageSeconds"].as_u64()).collect();
    assert!(ages.is_sorted() && ages[0].is_some(), "{ages:?}");
    let (_, _, answer) = ask(&server, &format!("{CHANNEL}/latest-video")).await;
    for field in ["videoId", "title", "url", "channelTitle", "channelId"] {
        assert_eq!(newest[0][field], answer["video"][field], "{field}");
    }
    assert_eq!(newest[0]["kind"], "video");
    let feed = &busy["sources"][0];
    let address = fake.origin.url().authority();
    assert_eq!(
        (&feed["source"], &feed["host"]),
        (&json!("feed"), &json!(address))
    );
    for absent in [
        "failingSeconds",
        "failedSecondsAgo",
        "error",
        "unitsLeft",
        "unitsADay",
    ] {
        assert_eq!(feed[absent], Value::Null, "{absent}");
    }
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let (status, head, body) = http_get_whole(server.admin, "/").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(
        head.contains("content-security-policy: default-src 'none'")
            && head.contains("; img-src data: https://i.ytimg.com; "),
        "{head}"
    );
    assert!(!head.contains("unsafe"), "{head}");
    assert!(body.contains("plaque"));
    // The hashes are of what is in the page.
    for element in ["script", "style"] {
        let open = format!("<{element}>");
        assert_eq!(body.matches(&open).count(), 1, "{element}");
        let (_, rest) = body.split_once(&open).expect("counted");
        let (text, _) = rest.split_once(&format!("</{element}>")).expect("its end");
        let hash = BASE64_STANDARD
            .encode(digest(&SHA256, text.as_bytes()))
            .to_lowercase();
        assert!(head.contains(&format!("{element}-src 'sha256-{hash}'")), "{head}");
    }
}

#[tokio::test]
async fn an_answer_that_the_caller_has_is_not_sent_again() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.latest.policy.min_refetch = Duration::ZERO)
        .await;
    let tag = |head: &str| {
        let line = head.lines().find(|line| line.starts_with("etag: "));
        line.expect("a tag").trim_start_matches("etag: ").to_owned()
    };
    for page in ["latest-video", "latest-video?maxAge=0s", "uploads?max_age=0s"] {
        let path = format!("/v1/channels/{CHANNEL}/{page}");
        let (_, first, body) = http_get_whole(server.http, &path).await;
        assert!(tag(&first).starts_with("w/\""), "{first}");
        let others = format!("if-none-match: \"a\", {}\r\n", tag(&first).replace("w/", "W/"));
        let strong = format!("if-none-match: {}\r\n", tag(&first).trim_start_matches("w/"));
        for (method, asked) in [
            ("GET", &*others),
            ("GET", &strong),
            ("HEAD", "if-none-match: *\r\n"),
        ] {
            // Looked up again, if the path says so: the time of the lookup is not part of the tag.
            let (status, head, body) = http_ask(server.http, method, &path, asked).await;
            assert_eq!((status, &*body), (304, ""), "{asked}{head}");
            assert_eq!(tag(&head), tag(&first));
            assert!(!head.contains("\r\ncontent-"), "{head}");
            assert!(
                head.contains("\r\nage: ") && head.contains("\r\ncache-control: public"),
                "{head}"
            );
            assert_eq!(
                head.contains("\r\ncache-status: plaque"),
                page.starts_with("latest"),
                "{head}"
            );
        }
        let (status, _, again) = http_get_with(server.http, &path, "if-none-match: W/\"0\"\r\n").await;
        assert_eq!((status, again.len()), (200, body.len()));
    }
    assert!(fake.lookups(CHANNEL) >= 9);
    // Other uploads have other tags.
    let [one, other] =
        [CHANNEL, "UCabcdefghijk0123456789A"].map(|id| format!("/v1/channels/{id}/latest-video"));
    let (one, other) = (
        http_get_whole(server.http, &one).await,
        http_get_whole(server.http, &other).await,
    );
    assert_eq!((one.0, other.0), (200, 200));
    assert_ne!(tag(&one.1), tag(&other.1));
    // Nor is an error cacheable.
    let (status, head, _) = http_get_with(
        server.http,
        "/v1/channels/UC/latest-video",
        "if-none-match: *\r\n",
    )
    .await;
    assert_eq!(status, 400);
    assert!(!head.contains("etag"), "{head}");
    // All of them are calls in the metrics.
    let (_, metrics) = http_get(server.admin, "/metrics").await;
    for (path, code, count) in [
        ("latest-video", "OK", 12),
        ("latest-video", "INVALID_ARGUMENT", 1),
        ("uploads", "OK", 5),
    ] {
        let line = format!(
            "rpc_server_call_duration_seconds_count{{rpc_system_name=\"http\",rpc_method=\"v1/channels/{{channel}}/{path}\",rpc_response_status_code=\"{code}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}
