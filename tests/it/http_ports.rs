//! The HTTP/1.1 ports: what each serves and to whom, limits of connections, and the drain.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use plaque::{
    config::{self, Origins},
    server::Drained,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    http::error_info,
    support::{CHANNEL, Fake, Server, feed, http_ask, http_get, http_get_whole, http_get_with, youtube},
};

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
        assert!(body.contains("/v1/channels/{channel}/latest-video"), "{body}");
    }
    for port in [with.http, with.admin] {
        assert_eq!(http_get(port, "/livez").await, (200, "alive\n".into()));
        assert_eq!(http_get(port, "/readyz").await, (200, "ready\n".into()));
    }
    let config = fake.config();
    let youtube = Arc::new(youtube(&config));
    let without = Server::start_with(config, youtube, None, false).await;
    assert_eq!(http_get(without.admin, &path).await.0, 200);
    for (method, path, status) in [("POST", &path, 405), ("GET", &path.replace("video", "film"), 404)] {
        let (got, head, _) = http_ask(without.admin, method, path, "").await;
        assert_eq!(got, status);
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    }
    // The status page asks in either case, and no page of another site.
    let ask = format!("/ask?name=https%3A%2F%2Fwww.youtube.com%2Fchannel%2F{CHANNEL}");
    for port in [with.admin, without.admin] {
        let (status, _, body) = http_get_with(port, &ask, "x-plaque-page: 1\r\n").await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (status, &body["video"]["channelId"]),
            (200, &CHANNEL.into()),
            "{body}"
        );
        assert_eq!(http_get(port, &ask).await.0, 403);
    }
    let (status, _, body) = http_get_with(with.admin, "/ask", "x-plaque-page: 1\r\n").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, error_info(&body)), (400, ("plaque", "INVALID_QUERY")));
}

#[tokio::test]
async fn no_such_page_and_no_such_method_are_errors_like_others() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let video = format!("/v1/channels/{CHANNEL}/latest-video");
    let other = format!("/v1/channels/{CHANNEL}/other");
    for (method, path, status, code, reason) in [
        ("GET", "/nothing", 404, 5, "NO_SUCH_PAGE"),
        ("GET", &other, 404, 5, "NO_SUCH_PAGE"),
        ("DELETE", "/nothing", 404, 5, "NO_SUCH_PAGE"),
        ("POST", &video, 405, 12, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", &video, 405, 12, "METHOD_NOT_ALLOWED"),
        ("PUT", "/openapi.json", 405, 12, "METHOD_NOT_ALLOWED"),
        ("POST", "/livez", 405, 12, "METHOD_NOT_ALLOWED"),
    ] {
        let (got, head, body) = http_ask(server.http, method, path, "").await;
        assert_eq!(got, status, "{method} {path}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
        assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
        assert_eq!(head.contains("\r\nallow: get,head\r\n"), status == 405, "{head}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&body["code"], error_info(&body)),
            (&code.into(), ("plaque", reason))
        );
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
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
    let ask = format!("/ask?name={CHANNEL}");
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
    for page in ["/", "/metrics", "/busy", &ask, &path, "/nothing"] {
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
async fn silent_peers_do_not_keep_others_out() {
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
async fn waiting_requests_keep_out_neither_probes_nor_hits() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.http_connections = NonZeroUsize::MIN.saturating_add(7))
        .await;
    let path_of = |channel| format!("/v1/channels/{channel}/latest-video");
    let known = path_of("UCknown6789abcdefghijklA");
    fake.release();
    assert_eq!(http_get(server.http, &known).await.0, 200);
    fake.arrival().await;
    let (path, http) = (&path_of(CHANNEL), server.http);
    let mut waiting: FuturesUnordered<_> = (0..8).map(|_| http_get_whole(http, path)).collect();
    // Seven may wait.
    let (status, head, body) = waiting.next().await.expect("eight");
    assert_eq!(status, 429, "{body}");
    assert!(head.contains("\r\nretry-after: 1"), "{head}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(error_info(&body), ("plaque", "OVERLOADED"));
    fake.arrival().await;
    assert_eq!(http_get(http, "/livez").await.0, 200);
    assert_eq!(http_get(http, &known).await.0, 200);
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

#[tokio::test]
async fn pages_of_allowed_origins_may_read_answers() {
    let fake = Fake::open(feed).await;
    let plain = format!("/v1/channels/{CHANNEL}/latest-video");
    let routed = format!("/v1/channels/{CHANNEL}/uploads");
    let from = |origin: &str| format!("origin: {origin}\r\n");
    let without = fake.serve().await;
    let only = fake
        .serve_with(|config| {
            config.http_origins = Some(config::origins("https://app.example").expect("an origin"));
        })
        .await;
    let any = fake
        .serve_with(|config| config.http_origins = Some(Origins::Any))
        .await;
    for path in [&plain, &routed] {
        for (server, origin, allowed) in [
            (&without, "https://app.example", None),
            (&only, "https://app.example", Some("https://app.example")),
            (&only, "https://other.example", None),
            (&any, "https://other.example", Some("*")),
        ] {
            let (status, head, _) = http_get_with(server.http, path, &from(origin)).await;
            assert_eq!(status, 200);
            let header = head
                .lines()
                .find_map(|line| line.strip_prefix("access-control-allow-origin: "));
            assert_eq!(header, allowed, "{origin}: {head}");
            // Shared caches keep the answers for different origins apart.
            let is_only = server.http == only.http;
            assert_eq!(
                head.contains("\r\nvary: origin"),
                is_only || server.http == any.http,
                "{head}"
            );
            assert_eq!(
                head.contains("expose-headers: age,cache-status,etag,retry-after"),
                is_only || server.http == any.http
            );
        }
    }
    // A browser asks before it sends a header of its own.
    let asked = "origin: https://app.example\r\naccess-control-request-method: GET\r\naccess-control-request-headers: if-none-match\r\n";
    let (status, head, _) = http_ask(only.http, "OPTIONS", &plain, asked).await;
    assert_eq!(status, 200);
    for line in [
        "access-control-allow-origin: https://app.example",
        "access-control-allow-methods: get,head",
        "access-control-allow-headers: *",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
}
