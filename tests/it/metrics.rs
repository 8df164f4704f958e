//! `/metrics`: each value compared with what the test did.

mod cancelled;

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    time::{Duration, SystemTime},
};

use axum::{http::StatusCode, response::IntoResponse as _};
use plaque::proto::v1::{
    BatchGetLatestVideosRequest, GetLatestVideoRequest, WatchLatestVideoRequest,
    watch_latest_video_response::Event,
};
use tonic::Request;

use crate::support::{CHANNEL, Fake, LONG, Server, feed, http_get, http_get_with, request};

/// Channels that the fake does not know.
const GONE: &str = "UCgone5678901234567890AA";

/// What a server tells at one moment.
struct Metrics(String);

impl Metrics {
    async fn of(admin: SocketAddr) -> Self {
        let (status, text) = http_get(admin, "/metrics").await;
        assert_eq!(status, 200, "{text}");
        Self(text)
    }

    /// Of a metric, such as `plaque_calls` or `plaque_limit{of="calls"}`.
    fn get(&self, metric: &str) -> u64 {
        self.text(metric).parse().expect("a whole number")
    }

    fn seconds(&self, metric: &str) -> f64 {
        self.text(metric).parse().expect("a number")
    }

    fn text(&self, metric: &str) -> &str {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        match line {
            Some(value) => value,
            None => panic!("no {metric} in {}", self.0),
        }
    }

    fn lookups(&self) -> [u64; 5] {
        ["hit", "stale", "collapsed", "miss", "negative"]
            .map(|how| self.get(&format!("plaque_lookups_total{{cache_status=\"{how}\"}}")))
    }

    /// How many calls of a method of `LatestVideo` have ended with a code.
    fn calls(&self, method: &str, code: &str) -> u64 {
        self.get(&format!(
            "rpc_server_call_duration_seconds_count{{rpc_system_name=\"grpc\",\
             rpc_method=\"plaque.v1.LatestVideo/{method}\",rpc_response_status_code=\"{code}\"}}"
        ))
    }
}

async fn metrics(server: &Server) -> Metrics {
    Metrics::of(server.admin).await
}

/// Knows every channel but [`GONE`].
fn most(lookup: &plaque::origin::Lookup) -> axum::response::Response {
    if lookup.channel == GONE {
        return StatusCode::NOT_FOUND.into_response();
    }
    feed(lookup)
}

#[tokio::test]
async fn questions_are_counted_by_how_they_were_answered() {
    let fake = Fake::gated(most).await;
    let server = fake
        .serve_with(|config| config.latest.policy.fresh_for = Duration::from_secs(500))
        .await;
    let client = server.client();
    assert_eq!(metrics(&server).await.lookups(), [0; 5]);

    let calls = client.start_many(CHANNEL, 3).await;
    fake.arrival().await;
    fake.release();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    client.get(CHANNEL).await.expect("a hit");
    fake.release();
    client.get(GONE).await.expect_err("a miss");
    client.get(GONE).await.expect_err("remembered");
    client.get("no channel").await.expect_err("no question");
    let batch = BatchGetLatestVideosRequest {
        channel_ids: vec![CHANNEL.into(), GONE.into(), "no channel".into()],
        ..BatchGetLatestVideosRequest::default()
    };
    client
        .0
        .clone()
        .batch_get_latest_videos(batch)
        .await
        .expect("an answer");

    let told = metrics(&server).await;
    // The order of the names: hit, stale, collapsed, miss, negative.
    assert_eq!(told.lookups(), [2, 0, 2, 2, 2]);
    assert_eq!(told.calls("GetLatestVideo", "OK"), 4);
    assert_eq!(told.calls("GetLatestVideo", "NOT_FOUND"), 2);
    // Two of them to start many calls.
    assert_eq!(told.calls("GetLatestVideo", "INVALID_ARGUMENT"), 3);
    assert_eq!(told.calls("BatchGetLatestVideos", "OK"), 1);
    assert_eq!(told.get("plaque_flights_started_total"), 2);
    assert_eq!(told.get("plaque_cache_entries"), 2);
    assert!(told.get("plaque_cache_weight_bytes") > 1000);
    for (outcome, count) in [("found", 1), ("not_found", 1)] {
        let metric = format!("plaque_upstream_request_duration_seconds_count{{outcome=\"{outcome}\"}}");
        assert_eq!(told.get(&metric), count, "{outcome}");
    }
}

#[tokio::test]
async fn an_old_answer_is_counted_as_stale() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            config.latest.policy.fresh_for = Duration::ZERO;
            config.latest.policy.stale_while_revalidate = LONG;
        })
        .await;
    server.client().get(CHANNEL).await.expect("a miss");
    server.client().get(CHANNEL).await.expect("an old answer");
    assert_eq!(metrics(&server).await.lookups(), [0, 1, 0, 1, 0]);
}

#[tokio::test]
async fn flights_in_progress_are_listed_with_their_waiters() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let calls = server.client().start_many(CHANNEL, 3).await;
    fake.arrival().await;
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_flights"), 1);
    assert_eq!(told.get("plaque_waiters"), 3);
    assert!(told.seconds("plaque_flight_age_max_seconds") > 0.0);
    assert_eq!(told.get("plaque_calls"), 3);
    fake.release();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_flights"), 0);
    assert_eq!(told.get("plaque_waiters"), 0);
    assert_eq!(told.text("plaque_flight_age_max_seconds"), "0.0");
}

#[tokio::test]
async fn queued_lookups_are_counted() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.upstream.pace.concurrency = NonZeroUsize::MIN)
        .await;
    let client = server.client();
    let first = client.start(CHANNEL);
    fake.arrival().await;
    let second = client.start_many(GONE, 1).await;
    // The call is begun; its lookup gets into the queue on another thread.
    while metrics(&server).await.get("plaque_upstream_queue") < 1 {
        tokio::task::yield_now().await;
    }
    let of_class = |told: &Metrics, what: &str| {
        let class = |class: &str| told.get(&format!("plaque_upstream_{what}{{class=\"{class}\"}}"));
        ["awaited_known", "awaited_unknown", "refresh", "poll"].map(class)
    };
    let told = metrics(&server).await;
    assert_eq!(of_class(&told, "queue_callers"), [0, 1, 0, 0]);
    assert_eq!(of_class(&told, "sent_total"), [0, 1, 0, 0]);
    assert_eq!(of_class(&told, "queue_wait_seconds_count"), [0, 1, 0, 0]);
    // Without a rate there is no budget to tell of.
    assert!(!told.0.contains("plaque_upstream_rate_limit"), "{}", told.0);
    fake.release();
    fake.release();
    first.await.expect("no panic").expect("an answer");
    for call in second {
        call.await.expect("no panic").expect("an answer");
    }
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_upstream_queue"), 0);
    assert_eq!(of_class(&told, "queue_callers"), [0; 4]);
    assert_eq!(of_class(&told, "sent_total"), [0, 2, 0, 0]);
    assert_eq!(of_class(&told, "queue_wait_seconds_count"), [0, 2, 0, 0]);
}

#[tokio::test]
async fn an_upstream_that_refuses_shows_in_the_breaker() {
    let fake = Fake::open(|_| StatusCode::TOO_MANY_REQUESTS.into_response()).await;
    let server = fake.serve().await;
    let breaker = |told: &Metrics| {
        ["closed", "open", "probing"]
            .map(|state| told.get(&format!("plaque_upstream_breaker{{state=\"{state}\"}}")))
    };
    assert_eq!(breaker(&metrics(&server).await), [1, 0, 0]);
    server.client().get(CHANNEL).await.expect_err("refused");
    let told = metrics(&server).await;
    assert_eq!(breaker(&told), [0, 1, 0]);
    let refused = "plaque_upstream_request_duration_seconds_count{outcome=\"rate_limited\"}";
    assert_eq!(told.get(refused), 1);
    assert_eq!(told.get("plaque_upstream_outage"), 0);
}

#[tokio::test]
async fn what_had_to_go_is_counted() {
    let fake = Fake::open(feed).await;
    let server = fake.serve_with(|config| config.latest.cache_bytes = 3000).await;
    let client = server.client();
    for channel in [CHANNEL, GONE] {
        client.get(channel).await.expect("an answer");
    }
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_cache_evictions_total{cause=\"size\"}"), 1);
    assert_eq!(told.get("plaque_cache_evictions_total{cause=\"expired\"}"), 0);
    assert_eq!(told.get("plaque_cache_entries"), 1);
    assert_eq!(told.get("plaque_limit{of=\"cache_bytes\"}"), 3000);
}

#[tokio::test]
async fn watches_are_counted_until_they_end() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut client = server.client();
    let request = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let mut first = client
        .0
        .watch_latest_video(request.clone())
        .await
        .expect("a watch")
        .into_inner();
    let second = client
        .0
        .watch_latest_video(request)
        .await
        .expect("a watch")
        .into_inner();
    let event = first.message().await.expect("no error").expect("an event").event;
    assert!(matches!(event, Some(Event::Video(_))));
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_watched_channels"), 1);
    assert_eq!(told.get("plaque_watches"), 2);
    assert_eq!(told.get("plaque_polls_total"), 1);
    drop((first, second));
    // The server hears of it from another thread.
    while metrics(&server).await.get("plaque_watched_channels") > 0 {
        tokio::task::yield_now().await;
    }
    let told = metrics(&server).await;
    assert_eq!(told.get("plaque_watches"), 0);
    assert_eq!(told.calls("WatchLatestVideo", "CANCELLED"), 2);
}

#[tokio::test]
async fn the_time_between_two_polls_is_measured() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| config.latest.watch_every = Duration::from_millis(5))
        .await;
    let request = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let watch = server.client().0.watch_latest_video(request).await;
    let _watch = watch.expect("a watch");
    for _ in 0..3 {
        fake.arrival().await;
    }
    // Two have ended, and so their interval is known.
    let intervals = async || metrics(&server).await.get("plaque_poll_interval_seconds_count");
    while intervals().await == 0 {
        tokio::task::yield_now().await;
    }
    let told = metrics(&server).await;
    assert!(told.seconds("plaque_poll_interval_seconds_sum") >= 0.005);
    assert_eq!(told.get("plaque_notice_delay_seconds_count"), 0);
}

#[tokio::test]
async fn the_deadline_is_counted_with_the_time_it_took() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let mut asked: Request<GetLatestVideoRequest> = Request::new(request(CHANNEL));
    asked.set_timeout(Duration::from_millis(20));
    server.client().ask(asked).await.expect_err("too late");
    let told = metrics(&server).await;
    assert_eq!(told.calls("GetLatestVideo", "DEADLINE_EXCEEDED"), 1);
    let labels = "rpc_system_name=\"grpc\",rpc_method=\"plaque.v1.LatestVideo/GetLatestVideo\",\
                  rpc_response_status_code=\"DEADLINE_EXCEEDED\"";
    assert!(told.seconds(&format!("rpc_server_call_duration_seconds_sum{{{labels}}}")) >= 0.02);
    let bucket = |bound: &str| {
        told.get(&format!(
            "rpc_server_call_duration_seconds_bucket{{le=\"{bound}\",{labels}}}"
        ))
    };
    assert_eq!(bucket("0.01"), 0);
    assert_eq!(bucket("+Inf"), 1);
}

#[tokio::test]
async fn the_build_is_exposed() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let info = format!("plaque_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics(&server).await.get(&info), 1);
}

#[tokio::test]
async fn the_format_is_the_one_that_is_asked_for() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let ask = async |accept: &str| {
        let (_, head, body) = http_get_with(server.admin, "/metrics", accept).await;
        (head, body)
    };
    let (head, body) = ask("accept: application/openmetrics-text; version=1.0.0\r\n").await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(
        body.contains("# TYPE plaque_polls counter\nplaque_polls_total 0\n"),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    for accept in ["", "accept: text/plain;version=0.0.4\r\n"] {
        let (head, body) = ask(accept).await;
        assert!(
            head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{head}"
        );
        assert!(
            body.contains("# TYPE plaque_polls_total counter\nplaque_polls_total 0\n"),
            "{body}"
        );
        assert!(
            body.contains("# TYPE plaque_build_info gauge\nplaque_build_info{"),
            "{body}"
        );
        assert!(!body.contains("EOF") && !body.contains("# UNIT"), "{body}");
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_process_is_measured() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let told = metrics(&server).await;
    assert!(told.seconds("process_cpu_seconds_total") > 0.0);
    // This test is the process.
    let memory = told.get("process_resident_memory_bytes");
    assert!((1 << 20..1 << 33).contains(&memory), "{memory}");
    let (open, most) = (told.get("process_open_fds"), told.get("process_max_fds"));
    assert!((3..most).contains(&open), "{open} of {most}");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let age = now.as_secs_f64() - told.seconds("process_start_time_seconds");
    assert!((-2.0..86_400.0).contains(&age), "{age}");
}
