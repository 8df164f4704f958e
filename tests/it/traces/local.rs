//! Spans without a reachable collector: outages, and traces in a file or in the log.

use std::sync::atomic::Ordering::SeqCst;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;

use super::{collector::*, program::Program};
use crate::{
    program::{assert_refused, plaque},
    support::{CHANNEL, Fake, feed},
};

#[tokio::test]
async fn an_outage_of_the_collector_is_told_of_once_and_so_is_its_end() {
    let fake = Fake::open(feed).await;
    let mut collector = Collector::start().await;
    collector.refuses.store(true, SeqCst);
    let program = Program::start(&fake, |command| {
        command.args(["--otlp-endpoint", &collector.address]);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "10");
    })
    .await;
    let client = program.client();
    for refuses in [true, true, true, false, false] {
        collector.refuses.store(refuses, SeqCst);
        client.get(CHANNEL).await.expect("an answer");
        // The call's; the first flight may come before it.
        while !collector
            .batch()
            .await
            .iter()
            .any(|span| span.kind() == SpanKind::Server)
        {}
    }
    let log = program.stop().await;
    assert_eq!(log.matches("traces cannot be exported").count(), 1, "{log}");
    assert_eq!(log.matches("traces are exported again").count(), 1, "{log}");
    assert!(log.contains(&collector.address), "{log}");
}

#[tokio::test]
async fn without_a_collector_the_server_serves_and_stops_and_says_so_once() {
    let fake = Fake::open(feed).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addresses = [&silent, &gone].map(|listener| listener.local_addr().expect("bound"));
    drop(gone);
    for address in addresses {
        let program = Program::start(&fake, |command| {
            command.args(["--otlp-endpoint", &format!("http://{address}")]);
        })
        .await;
        program.client().get(CHANNEL).await.expect("an answer");
        let log = program.stop().await;
        assert_eq!(log.matches("traces cannot be exported").count(), 1, "{log}");
        assert!(log.contains(&address.to_string()), "{log}");
    }
}

#[tokio::test]
async fn a_trace_for_perfetto_is_whole_when_the_program_has_ended() {
    let fake = Fake::open(feed).await;
    let file = std::env::temp_dir().join(format!("plaque-trace-{}.json", std::process::id()));
    let program = Program::start(&fake, |command| {
        command.arg("--trace-chrome").arg(&file);
    })
    .await;
    program.client().get(CHANNEL).await.expect("an answer");
    let log = program.stop().await;
    assert!(
        !log.contains("flight") && !log.contains("lookup"),
        "the log is none the longer: {log}"
    );
    let text = std::fs::read_to_string(&file).expect("it is written");
    std::fs::remove_file(&file).expect("it is there");
    let events: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON to the end");
    for name in ["call", "flight", "lookup", "request"] {
        let phases = events
            .iter()
            .filter(|event| event["name"] == name)
            .map(|event| &event["ph"]);
        assert_eq!(phases.collect::<Vec<_>>(), ["b", "e"], "{name}");
    }
}

#[tokio::test]
async fn a_file_for_perfetto_that_cannot_be_written_is_named() {
    let mut command = plaque();
    command.args(["serve", "--trace-chrome", "/no/such/folder/trace.json"]);
    assert_refused(
        command,
        2,
        &["--trace-chrome", "/no/such/folder/trace.json", "No such file"],
    )
    .await;
}

#[tokio::test]
async fn a_log_as_a_tree_shows_calls_with_what_they_did() {
    let fake = Fake::open(feed).await;
    let program = Program::start(&fake, |command| {
        command.args(["--log-format", "tree", "--log", "plaque=debug"]);
    })
    .await;
    program.client().get(CHANNEL).await.expect("an answer");
    let log = program.stop().await;
    let places = ["call{", "flight{", "lookup{", "request{", "looked up"].map(|part| log.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{log}");
}
