//! What the admin port tells the status page of the whole server.

use axum::{http::StatusCode, response::IntoResponse as _};
use serde_json::{Value, json};

use crate::support::{CHANNEL, Fake, Server, feed, http_get};

/// A channel that the fake does not know, and two whose lookups fail.
const GONE: &str = "UCgone5678901234567890AA";
const FAILING: [&str; 2] = ["UCfail5678901234567890AA", "UCfail5678901234567890BA"];

async fn get(server: &Server, path: &str) -> Value {
    let (status, body) = http_get(server.admin, path).await;
    assert_eq!(status, 200, "{path}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test]
async fn failing_channels_are_counted_by_reason() {
    let fake = Fake::open(|lookup| match &lookup.channel[..] {
        CHANNEL => feed(lookup),
        GONE => StatusCode::NOT_FOUND.into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    })
    .await;
    let server = fake.serve().await;
    let client = server.client();
    client.get(CHANNEL).await.expect("an answer");
    client.get(GONE).await.expect_err("not found");
    for channel in FAILING {
        client.get(channel).await.expect_err("fails");
    }
    // A scan is cached for some microseconds.
    let failing = loop {
        let busy = get(&server, "/busy").await;
        if busy["failing"][0]["channels"] == 2 {
            break busy["failing"].clone();
        }
    };
    assert_eq!(failing.as_array().map(Vec::len), Some(1), "{failing}");
    assert_eq!(failing[0]["reason"], "UPSTREAM_ERROR");
    let error = failing[0]["error"].as_str().expect("a text");
    assert!(error.contains("503"), "{error}");
}

#[tokio::test]
async fn the_history_has_what_was_done_until_now() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    for _ in 0..3 {
        server.client().get(CHANNEL).await.expect("an answer");
    }
    server.client().get("no channel").await.expect_err("no question");
    let sum = |spans: &Value, path: &str| -> u64 {
        let spans = spans.as_array().expect("a list");
        spans.iter().filter_map(|span| span.pointer(path)?.as_u64()).sum()
    };
    // Calls are counted after their responses.
    let spans = loop {
        let spans = get(&server, "/history").await;
        if sum(&spans, "/1") == 4 {
            break spans;
        }
    };
    assert_eq!(sum(&spans, "/2"), 1, "the errors: {spans}");
    let lookups = ["/3/0", "/3/1", "/3/2", "/3/3", "/3/4"].map(|path| sum(&spans, path));
    assert_eq!(lookups, [2, 0, 0, 1, 0]);
    let last = spans.as_array().and_then(|spans| spans.last()).expect("a span");
    assert_eq!(last[0][1], 0.0, "it ends now: {spans}");
}

#[tokio::test]
async fn the_server_says_what_it_was_started_with() {
    let fake = Fake::open(feed).await;
    let shown = || vec![("--fresh-for".to_owned(), "5m".to_owned())];
    let server = fake.serve_with(|config| config.shown = shown()).await;
    let about = &get(&server, "/busy").await["about"];
    assert_eq!(about["settings"], json!(shown()));
    assert_eq!(about["tls"], false);
    assert!(about["grpcPort"].as_u64().is_some_and(|port| port > 0), "{about}");
    assert!(
        about["uptimeSeconds"]
            .as_u64()
            .is_some_and(|uptime| uptime < 3600),
        "{about}"
    );
}
