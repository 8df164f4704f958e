//! The HTTP/1.1 ports: answers as JSON, what is busy, the page, and who may ask.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use plaque::{
    clock,
    coalesce::Entry,
    grpc,
    latest::{Latest, Query},
    proto::v1::WatchLatestVideoRequest,
    server::Drained,
    upstream::UpstreamError,
    video::{Channel, Kind},
};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};

use crate::store_memory::Memory;
use crate::stores::{self, Kind as _, upload};
use crate::support::{CHANNEL, Fake, Server, feed, http_get, http_get_whole, youtube};

async fn ask(server: &Server, rest: &str) -> (u16, String, Value) {
    let path = format!("/v1/channels/{rest}");
    let (status, head, body) = http_get_whole(server.http, &path).await;
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, head, serde_json::from_str(&body).expect("JSON"))
}

fn error_info(body: &Value) -> (&str, &str) {
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

/// A header's number.
fn number(headers: &HeaderMap, name: &str, before: &str) -> Option<i64> {
    let text = headers.get(name)?.to_str().expect("ASCII");
    let (_, number) = text.split_once(before)?;
    let number = number.split([';', ',']).next().expect("the first");
    Some(number.parse().expect("a number"))
}

#[tokio::test]
async fn the_age_is_that_by_which_the_cache_status_goes() {
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
        // Whatever the wall clock said.
        let known = Entry::succeeded(Arc::new(channel), at, SystemTime::UNIX_EPOCH);
        stores::kept(&memory, stores::feed(), &known).await;
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
        let http = grpc::Http::new(
            latest,
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
            let said = format!("{age:?}, {fails}, {headers:?}");
            assert!(
                headers["cache-status"].to_str().expect("ASCII").contains(how),
                "{said}"
            );
            let age_said = number(headers, "age", "").expect("an age");
            let fresh_for = number(headers, "cache-control", "max-age=").expect("set");
            match number(headers, "cache-status", "ttl=") {
                Some(ttl) => assert_eq!(age_said + ttl, fresh_for, "{said}"),
                None if fails => assert!((3600..3660).contains(&age_said), "{said}"),
                None => assert_eq!(age_said, 0, "{said}"),
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

    let (status, _, body) = ask(&server, "nonsense/latest-video").await;
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
async fn an_error_that_passes_says_when_to_come_again() {
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
async fn what_is_busy_is_told() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let calls = server.client().start_many(CHANNEL, 2).await;
    fake.arrival().await;
    let busy = async || -> Value {
        let (status, body) = http_get(server.admin, "/busy").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).expect("JSON")
    };
    let told = busy().await;
    assert_eq!(told["flights"][0]["channelId"], CHANNEL);
    assert_eq!(told["flights"][0]["waiters"], 2);
    assert!(told["flights"][0]["ageSeconds"].as_f64().expect("a number") > 0.0);
    assert_eq!(told["busiest"], json!([]));
    fake.release();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    server.client().get(CHANNEL).await.expect("a hit");
    // What was busiest may be told for some microseconds more.
    let told = loop {
        let told = busy().await;
        if told["busiest"] != json!([]) {
            break told;
        }
    };
    assert_eq!(told["flights"], json!([]));
    assert_eq!(told["busiest"][0]["channelId"], CHANNEL);
    assert_eq!(told["busiest"][0]["title"], "A channel");
    assert_eq!(told["busiest"][0]["asked"], 3);
    assert_eq!(told["busiest"][0]["askedPerSecond"], 3.0);
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
    assert_eq!(busy, r#"{"busiest":[],"flights":[]}"#);
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let (status, head, body) = http_get_whole(server.admin, "/").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(
        head.contains("content-security-policy: default-src 'none'"),
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
async fn json_is_served_on_the_admin_port_until_it_has_a_port_of_its_own() {
    let fake = Fake::open(feed).await;
    let path = format!("/v1/channels/{CHANNEL}/latest-video");
    let with = fake.serve().await;
    for page in [&path[..], "/v1/channels"] {
        let (status, body) = http_get(with.admin, page).await;
        assert_eq!(status, 404, "{body}");
        assert!(body.contains("--http-listen"), "{body}");
    }
    for page in ["/metrics", "/busy", "/"] {
        let (status, body) = http_get(with.http, page).await;
        assert_eq!(status, 404, "{body}");
        assert!(body.contains("/v1/channels/{channel_id}/latest-video"), "{body}");
    }
    for port in [with.http, with.admin] {
        assert_eq!(http_get(port, "/livez").await, (200, "alive\n".into()));
        assert_eq!(http_get(port, "/readyz").await, (200, "ready\n".into()));
    }
    let config = fake.config();
    let youtube = Arc::new(youtube(&config));
    let without = Server::start_with(config, youtube, None, false).await;
    assert_eq!(http_get(without.admin, &path).await.0, 200);
}

#[tokio::test]
async fn a_name_that_points_here_reads_nothing_of_the_admin_port() {
    let fake = Fake::open(feed).await;
    let config = plaque::config::Config {
        admin_names: vec!["plaque.shop.svc".into()],
        ..fake.config()
    };
    let youtube = Arc::new(youtube(&config));
    let server = Server::start_with(config, youtube, None, false).await;
    let path = format!("/v1/channels/{CHANNEL}/latest-video");
    let status = async |path: &str, host: &str| {
        let mut stream = TcpStream::connect(server.admin).await.expect("accepted");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(
            answer.contains("\r\nx-content-type-options: nosniff\r\n"),
            "{answer}"
        );
        answer[9..12].parse::<u16>().expect("a status")
    };
    for page in ["/", "/metrics", "/busy", &path, "/nothing"] {
        assert_eq!(status(page, "evil.example").await, 421, "{page}");
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
    for host in [
        "127.0.0.1",
        "localhost:3780",
        "[::1]:3780",
        "plaque.shop.svc:3780",
    ] {
        assert_eq!(status("/metrics", host).await, 200, "{host}");
    }
    for probe in ["/livez", "/readyz"] {
        assert_eq!(status(probe, "balancer.example").await, 200, "{probe}");
    }
}

#[tokio::test]
async fn silent_peers_keep_nobody_out() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.http_connections = NonZeroUsize::MIN.saturating_add(7))
        .await;
    for (port, peers) in [(server.admin, 100), (server.http, 20)] {
        let mut silent = vec![];
        for _ in 0..peers {
            let mut peer = TcpStream::connect(port).await.expect("accepted");
            peer.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("sent");
            silent.push(peer);
        }
        let (status, _) = http_get(port, "/livez").await;
        assert_eq!(status, 200);
        // The one that was idle longest made room, long before its time was over.
        let mut first = silent.remove(0);
        let end = timeout(Duration::from_secs(5), first.read_to_end(&mut vec![])).await;
        assert!(!matches!(end, Err(_) | Ok(Ok(1..))), "{end:?}");
    }
}

#[tokio::test]
async fn who_waits_for_lookups_keeps_no_probe_out() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.http_connections = NonZeroUsize::MIN.saturating_add(7))
        .await;
    let path = format!("/v1/channels/{CHANNEL}/latest-video");
    let (path, http) = (&path, server.http);
    let mut waiting: FuturesUnordered<_> = (0..8).map(|_| http_get_whole(http, path)).collect();
    // Seven may wait.
    let (status, head, body) = waiting.next().await.expect("eight");
    assert_eq!(status, 429, "{body}");
    assert!(head.contains("\r\nretry-after: 1"), "{head}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(error_info(&body), ("plaque", "OVERLOADED"));
    fake.arrival().await;
    assert_eq!(http_get(http, "/livez").await.0, 200);
    fake.release();
    while let Some((status, ..)) = waiting.next().await {
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn a_request_for_json_is_cut_off_at_the_drain_timeout() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.drain.timeout = Duration::from_millis(20))
        .await;
    let mut asked = TcpStream::connect(server.http).await.expect("accepted");
    let request = format!("GET /v1/channels/{CHANNEL}/latest-video HTTP/1.1\r\nhost: x\r\n\r\n");
    asked.write_all(request.as_bytes()).await.expect("sent");
    fake.arrival().await;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 1 });
    let mut answer = vec![];
    assert!(asked.read_to_end(&mut answer).await.is_err() || answer.is_empty());
}

#[tokio::test]
async fn a_request_for_json_is_answered_before_the_server_stops() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let idle = TcpStream::connect(server.http).await.expect("accepted");
    let (admin, http) = (server.admin, server.http);
    let asked =
        tokio::spawn(async move { http_get(http, &format!("/v1/channels/{CHANNEL}/latest-video")).await });
    fake.arrival().await;
    let stopping = server.stop();
    while http_get(admin, "/readyz").await.0 != 503 {}
    while TcpStream::connect(http).await.is_ok() {}
    fake.release();
    assert_eq!(asked.await.expect("no panic").0, 200);
    assert_eq!(stopping.ended().await, Drained { cut_off: 0 });
    drop(idle);
}
