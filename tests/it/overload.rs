//! More lookups than the source has room for: what callers, watches and metrics see.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use axum::{http::StatusCode, response::IntoResponse as _};
use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use http::HeaderName;
use plaque::{
    latest::{Event, Latest, LookupError, Settings, WatchEvent, WatchQuery},
    server::Drained,
    upstream::{Failure, UpstreamError},
};
use tokio::runtime::Handle;
use tonic::{Code, Request};

use crate::{
    stores::{Fake as Upstream, channel, found, settings, soon},
    support::{CHANNEL, Fake, Server, feed, http_get, http_get_with, reason, request},
};

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("UC{number:021}A")).collect()
}

#[tokio::test]
async fn lookups_that_would_queue_too_long_are_refused_at_once_and_not_cached() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            // The first goes out, and the second would in 1,000 s.
            config.upstream.pace.rate = Some(0.001);
            config.upstream.pace.max_queue_wait = Duration::from_secs(5);
        })
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let ids = ids(20);
    for _ in 0..2 {
        for refused in join_all(ids.iter().map(|id| client.get(id))).await {
            let refused = refused.expect_err("no turn");
            let (reason, details) = reason(&refused);
            assert_eq!(
                (refused.code(), reason.as_str()),
                (Code::ResourceExhausted, "OVERLOADED")
            );
            let pause = details.retry_info().and_then(|info| info.retry_delay);
            assert!(pause.expect("a time") > Duration::from_secs(1), "{pause:?}");
        }
    }
    assert!(ids.iter().all(|id| fake.lookups(id) == 0));

    // A known channel has its answer, and no pause.
    let mut newer = request(CHANNEL);
    newer.max_age = Some(prost_types::Duration::default());
    for _ in 0..2 {
        let (_, status) = client
            .ask(Request::new(newer.clone()))
            .await
            .expect("the kept one");
        assert_eq!(status, "plaque; fwd=request");
        let (_, status) = client.get(CHANNEL).await.expect("an answer");
        assert!(status.starts_with("plaque; hit"), "{status}");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);

    let (_, metrics) = http_get(server.admin, "/metrics").await;
    for line in [
        "plaque_cache_entries 1",
        "plaque_upstream_queue 0",
        "plaque_upstream_queued{class=\"awaited_unknown\"} 0",
        "plaque_upstream_admitted_total{class=\"awaited_unknown\"} 1",
        "plaque_upstream_refused_total{class=\"awaited_unknown\"} 40",
        "plaque_upstream_refused_total{class=\"awaited_known\"} 2",
        "plaque_upstream_dropped_total{class=\"awaited_unknown\"} 0",
        "plaque_upstream_sent_total{class=\"awaited_unknown\"} 1",
        "plaque_upstream_sent_total{class=\"awaited_known\"} 0",
        "plaque_upstream_queue_wait_seconds_count{class=\"awaited_unknown\"} 1",
        "plaque_upstream_queue_callers{class=\"awaited_unknown\"} 0",
        "plaque_upstream_rate_limit 0.001",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_queued_lookup_whose_last_caller_has_left_is_dropped() {
    let fake = Fake::open(feed).await;
    let server = fake
        .serve_with(|config| {
            // The first goes out, and the second in 1,000 s.
            config.upstream.pace.rate = Some(0.001);
            config.upstream.pace.max_queue_wait = Duration::from_hours(1);
            config.calls.deadline = Duration::from_hours(2);
        })
        .await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    let until = async |lines: &[&str]| {
        let wanted = async {
            loop {
                let (_, metrics) = http_get(server.admin, "/metrics").await;
                if lines.iter().all(|line| metrics.contains(&format!("\n{line}\n"))) {
                    return;
                }
            }
        };
        soon(wanted).await;
    };
    let id = &ids(1)[0];
    let (first, second) = (client.start(id), client.start(id));
    until(&["plaque_upstream_queue 1", "plaque_waiters 2"]).await;
    first.abort();
    until(&["plaque_upstream_queue 1", "plaque_waiters 1"]).await;
    second.abort();
    until(&[
        "plaque_upstream_queue 0",
        "plaque_waiters 0",
        "plaque_flights 0",
        "plaque_upstream_dropped_total{class=\"awaited_unknown\"} 1",
    ])
    .await;
    // Nothing is remembered of it.
    let next = client.start(id);
    until(&["plaque_upstream_queue 1", "plaque_waiters 1"]).await;
    next.abort();
    assert_eq!(fake.lookups(id), 0);
}

/// The title of a watch's next event.
async fn title(next: impl Future<Output = Option<Result<WatchEvent, LookupError>>>) -> String {
    let event = soon(next).await.expect("it goes on").expect("an event");
    match event.event {
        Event::Upload { channel, .. } => channel.title().to_owned(),
        Event::Problem { error, .. } => error.to_string(),
        Event::Recovered => "recovered".to_owned(),
        Event::Missed => "missed".to_owned(),
    }
}

#[tokio::test]
async fn a_watch_survives_refusals_by_the_queue() {
    // A refusal by the queue is not an event, and the last problem lasts until the next answer.
    let upstream = Upstream::gated(|number, feed| {
        let error = match number {
            2 | 4 => UpstreamError::RateLimited(429),
            3 | 5 => UpstreamError::Busy,
            _ => return found(number, feed),
        };
        Err(Failure {
            out_of_budget: false,
            error,
            // Polls come again then.
            retry_after: Some(Duration::from_millis(1)),
        })
    });
    let settings = Settings {
        watch_every: Duration::from_millis(1),
        ..settings()
    };
    let latest = Latest::new(Arc::clone(&upstream) as _, None, settings, Handle::current());
    let latest = Arc::new(latest);
    let query = WatchQuery {
        channels: vec![channel(0)],
        kind: None,
        published_after: None,
        resume_tokens: Vec::new(),
    };
    let mut watch = latest.watch(&query).expect("room");
    // The gate lets a given number of lookups pass.
    upstream.release();
    assert_eq!(title(watch.next()).await, "lookup 1");
    upstream.release();
    let problem = title(watch.next()).await;
    assert!(problem.contains("refuses to answer"), "{problem}");
    for _ in 3..=4 {
        upstream.release();
    }
    for _ in 1..=5 {
        soon(upstream.arrival()).await;
    }
    // The fifth lookup is under way: whatever the others changed is there to be read.
    let event = watch.next().now_or_never();
    assert!(event.is_none(), "the problem lasts: {event:?}");
    for _ in 5..=6 {
        upstream.release();
    }
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "lookup 6") {
        seen.push(title(watch.next()).await);
    }
    assert_eq!(seen[0], "recovered");
}

#[tokio::test]
async fn a_first_poll_that_is_not_admitted_is_retried_when_the_queue_says_so() {
    let upstream = Upstream::open(|number, feed| match number {
        1..=3 => Err(Failure {
            out_of_budget: false,
            error: UpstreamError::Busy,
            retry_after: Some(Duration::from_millis(1)),
        }),
        _ => found(number, feed),
    });
    // The next poll would be long after the test.
    let latest = Latest::new(Arc::clone(&upstream) as _, None, settings(), Handle::current());
    let latest = Arc::new(latest);
    let query = WatchQuery {
        channels: vec![channel(0)],
        kind: None,
        published_after: None,
        resume_tokens: Vec::new(),
    };
    let mut watch = latest.watch(&query).expect("room");
    assert_eq!(title(watch.next()).await, "lookup 4");
}

#[tokio::test]
async fn queued_lookups_are_made_when_the_server_stops() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.upstream.pace.concurrency = NonZeroUsize::MIN)
        .await;
    let client = server.client();
    let first = client.start(CHANNEL);
    fake.arrival().await;
    let mut calls = vec![first];
    for id in ids(5) {
        calls.extend(client.start_many(&id, 1).await);
    }
    let (admin, stopping) = (server.admin, server.stop());
    while http_get(admin, "/readyz").await.0 != 503 {}
    for _ in 0..6 {
        fake.release();
    }
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    assert_eq!(stopping.ended().await, Drained { cut_off: 0 });
}

/// One lookup at a time, and ten in line.
async fn serve_one_at_a_time(fake: &Fake, header: Option<HeaderName>) -> Server {
    fake.serve_with(|config| {
        config.caller_header = header;
        config.upstream.pace.concurrency = NonZeroUsize::MIN;
        config.upstream.pace.queue = NonZeroUsize::MIN.saturating_add(9);
    })
    .await
}

/// Waits until so many lookups were let into the queue or refused.
async fn decided(admin: SocketAddr, count: u64) {
    loop {
        let (_, metrics) = http_get(admin, "/metrics").await;
        let of = |metric| sum(&metrics, metric);
        if of("plaque_upstream_admitted_total") + of("plaque_upstream_refused_total") == count {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_caller_that_is_named_gets_its_turn_beside_one_that_fills_the_queue() {
    for (header, gets_in) in [(Some(HeaderName::from_static("x-client")), true), (None, false)] {
        let fake = Fake::gated(feed).await;
        let server = serve_one_at_a_time(&fake, header).await;
        let ask = |id: &str, name: &str| {
            let mut request = Request::new(request(id));
            let name = name.parse().expect("metadata");
            request.metadata_mut().insert("x-client", name);
            let client = server.client();
            tokio::spawn(async move { client.ask(request).await })
        };
        let greedy: Vec<_> = ids(40).iter().map(|id| ask(id, "greedy")).collect();
        soon(decided(server.admin, 40)).await;
        let modest = ask(CHANNEL, "modest");
        soon(decided(server.admin, 41)).await;
        if gets_in {
            // The one under way, one of the greedy caller's turns, its own.
            for _ in 0..3 {
                fake.release();
            }
            soon(modest).await.expect("no panic").expect("an answer");
        } else {
            let refused = soon(modest)
                .await
                .expect("no panic")
                .expect_err("the same caller");
            assert_eq!(reason(&refused).0, "OVERLOADED");
        }
        for _ in 0..40 {
            fake.release();
        }
        let mut answered = 0;
        for call in greedy {
            match soon(call).await.expect("no panic") {
                Ok(_) => answered += 1,
                Err(refused) => assert_eq!(reason(&refused).0, "OVERLOADED"),
            }
        }
        assert!((5..=10).contains(&answered), "{answered}");
    }
}

#[tokio::test]
async fn callers_of_the_json_api_are_identified_like_those_of_grpc() {
    for (header, gets_in) in [(Some(HeaderName::from_static("x-client")), true), (None, false)] {
        let fake = Fake::gated(feed).await;
        let server = serve_one_at_a_time(&fake, header).await;
        let (admin, http) = (server.admin, server.http);
        let greedy = ids(20).into_iter().map(|id| {
            let path = format!("/v1/channels/{id}/latest-video");
            tokio::spawn(async move { http_get_with(http, &path, "x-client: greedy\r\n").await })
        });
        let greedy: Vec<_> = greedy.collect();
        soon(decided(admin, 20)).await;
        // By either way: a caller has one name.
        let path = format!("/v1/channels/{CHANNEL}/latest-video");
        let modest = tokio::spawn(async move { http_get_with(http, &path, "X-Client: modest\r\n").await });
        soon(decided(admin, 21)).await;
        let mut same = Request::new(request("UCgrpc5678901234567890AA"));
        same.metadata_mut()
            .insert("x-client", "greedy".parse().expect("metadata"));
        let refused = soon(server.client().ask(same))
            .await
            .expect_err("the greedy one's turn");
        assert_eq!(reason(&refused).0, "OVERLOADED");
        for _ in 0..20 {
            fake.release();
        }
        let (status, _, body) = soon(modest).await.expect("no panic");
        assert_eq!(status, if gets_in { 200 } else { 429 }, "{body}");
        for call in greedy {
            let (status, ..) = soon(call).await.expect("no panic");
            assert!([200, 429].contains(&status), "{status}");
        }
    }
}

#[tokio::test]
async fn a_pushback_that_would_outlast_the_deadline_says_not_to_retry() {
    let fake = Fake::gated(|lookup| match lookup.channel.as_str() {
        CHANNEL => StatusCode::TOO_MANY_REQUESTS.into_response(),
        _ => feed(lookup),
    })
    .await;
    let server = fake.serve().await;
    let within = async |seconds| {
        let mut request = Request::new(request(CHANNEL));
        request.set_timeout(Duration::from_secs(seconds));
        let refused = server.client().ask(request).await.expect_err("refused");
        let pushback = refused.metadata().get("grpc-retry-pushback-ms").cloned();
        let pushback = pushback.expect("a pushback").to_str().expect("ASCII").to_owned();
        let (reason, details) = reason(&refused);
        assert_eq!(reason, "UPSTREAM_RATE_LIMITED");
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let delay = delay.expect("the time is given all the same");
        assert!((28..=30).contains(&delay.as_secs()), "{delay:?}");
        (pushback, delay.as_millis().to_string())
    };
    fake.release();
    // It waits for a lookup. Later calls do not: the upstream refuses lookups for 30 s.
    assert_eq!(within(20).await.0, "-1");
    assert_eq!(within(20).await.0, "-1");
    // More than the server's own limit for a call, which says nothing of how long the caller waits in all.
    let (pushback, delay) = within(600).await;
    assert_eq!(pushback, delay);
}

/// The sum of a metric over its labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}
