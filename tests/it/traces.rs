//! Traces as a collector receives them. The program itself exports them, since a process has one subscriber.
#![cfg(unix)]

mod collector;
mod local;
mod program;

use std::{collections::HashSet, time::SystemTime};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode as Outcome},
};
use plaque::origin::{self, Lookup};
use tonic::{Code, Request};

use self::collector::*;
pub use self::program::Program;
use crate::support::{Answered, CHANNEL, Fake, feed, request};

/// A feed whose title is the trace headers that the upstream received.
fn traced_feed(lookup: &Lookup) -> Response {
    let header = |name| {
        lookup
            .headers
            .get(name)
            .map_or("none", |v| v.to_str().expect("ASCII"))
    };
    let title = ["traceparent", "tracestate", "baggage"].map(header).join(" ");
    origin::feed(&lookup.channel, &title, &origin::uploads(SystemTime::now(), 1))
}

fn title(answered: Answered) -> String {
    answered
        .expect("an answer")
        .0
        .video
        .expect("a video")
        .channel_title
}

#[tokio::test]
async fn a_trace_shows_which_flight_a_caller_waited_for() {
    let fake = Fake::gated(traced_feed).await;
    let mut collector = Collector::start().await;
    let program = Program::traced(&fake, &collector).await;
    let client = program.client();
    let ask = |caller: &Caller| {
        let (client, request) = (client.clone(), caller.asks(CHANNEL));
        tokio::spawn(async move { client.ask(request).await })
    };
    let (first, second, third) = (Caller::new('a'), Caller::new('b'), Caller::new('c'));

    let opening = ask(&first);
    fake.arrival().await;
    let joining = [ask(&second), ask(&third)];
    tokio::task::yield_now().await; // their requests are sent
    client.get("not a channel").await.expect_err("it is none"); // they are served in order
    fake.release();
    let seen = title(opening.await.expect("no panic"));
    for call in joining {
        call.await.expect("no panic").expect("an answer");
    }
    let hit = Caller::new('d');
    client.ask(hit.asks(CHANNEL)).await.expect("an answer");
    program.stop().await;

    let (resource, first_batch) = collector.batches.try_recv().expect("exported before the end");
    let mut trace = collector.received();
    trace.0.extend(first_batch);
    let named = resource
        .attributes
        .iter()
        .find(|attribute| attribute.key == "service.name");
    let name = named.and_then(|name| name.value.as_ref()?.value.clone());
    assert_eq!(name, Some(Value::StringValue("plaque".into())));

    let opened = trace.call_of(&first);
    assert_eq!(opened.name, "plaque.v1.LatestVideo/GetLatestVideo");
    assert_eq!(opened.trace_state, "shop=1");
    for (key, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "plaque.v1.LatestVideo/GetLatestVideo"),
        ("rpc.response.status_code", "OK"),
        ("plaque.channel_id", CHANNEL),
        ("plaque.cache_status", "plaque; fwd=uri-miss"),
    ] {
        assert_eq!(attribute(opened, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(opened, "error.type"), None);

    let flight = trace.only(opened, "flight");
    assert_eq!(flight.links.len(), 2);
    for caller in [&second, &third] {
        let joined = trace.call_of(caller);
        assert_eq!(
            attribute(joined, "plaque.cache_status").as_deref(),
            Some("plaque; fwd=uri-miss; collapsed")
        );
        assert!(links_to(joined, flight) && links_to(flight, joined));
        assert!(trace.within(joined, "flight").is_empty());
    }
    let request = trace.only(trace.only(flight, "lookup"), "GET");
    assert_eq!(request.kind(), SpanKind::Client);
    assert_eq!(
        attribute(request, "http.response.status_code").as_deref(),
        Some("200")
    );
    let url = attribute(request, "url.full").expect("it is there");
    assert!(
        url.ends_with(&format!("/feeds/videos.xml?channel_id={CHANNEL}")),
        "{url}"
    );
    assert_eq!(
        seen,
        format!("00-{}-{}-01 none none", first.trace, hex(&request.span_id))
    );

    let hit = trace.call_of(&hit);
    assert!(hit.links.is_empty() && trace.within(hit, "flight").is_empty());
    let flights = trace.0.iter().filter(|span| span.name == "flight");
    assert_eq!(flights.count(), 1);
    let spans: HashSet<_> = trace.0.iter().map(|span| &span.span_id).collect();
    assert_eq!(spans.len(), trace.0.len(), "each once");
}

#[tokio::test]
async fn a_caller_decides_whether_it_is_traced() {
    let fake = Fake::open(traced_feed).await;
    let collector = Collector::start().await;
    let program = Program::traced(&fake, &collector).await;
    let client = program.client();
    let unseen = Caller {
        sampled: false,
        ..Caller::new('a')
    };
    let seen = title(client.ask(unseen.asks(CHANNEL)).await);
    assert!(seen.starts_with(&format!("00-{}-", unseen.trace)), "{seen}");
    assert!(
        seen.contains("-00 "),
        "{seen}: the sampling decision is passed on"
    );
    let mut malformed = Request::new(request("UCmalformed0123456789-_A"));
    let metadata = malformed.metadata_mut();
    metadata.insert("traceparent", "00-A-B-01".parse().expect("ASCII"));
    client.ask(malformed).await.expect("an answer");
    program.stop().await;

    let trace = collector.received();
    let calls: Vec<_> = trace.calls().collect();
    assert_eq!(calls.len(), 1, "the malformed one begins a trace");
    assert!(calls[0].parent_span_id.is_empty());
    assert_eq!(trace.0.len(), 4, "call, flight, lookup, request");
}

#[tokio::test]
async fn failures_are_marked_where_they_happened() {
    let fake = Fake::open(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    let collector = Collector::start().await;
    let program = Program::traced(&fake, &collector).await;
    let client = program.client();
    let (ours, theirs) = (Caller::new('a'), Caller::new('b'));
    let failed = client.ask(ours.asks(CHANNEL)).await.expect_err("an error");
    assert_eq!(failed.code(), Code::Unavailable);
    client
        .ask(theirs.asks("not a channel"))
        .await
        .expect_err("it is none");
    program.stop().await;

    let trace = collector.received();
    let call = trace.call_of(&ours);
    assert_eq!(outcome(call), Outcome::Error);
    for key in ["rpc.response.status_code", "error.type"] {
        assert_eq!(attribute(call, key).as_deref(), Some("UNAVAILABLE"));
    }
    let lookup = trace.only(trace.only(call, "flight"), "lookup");
    let requests = trace.within(lookup, "GET");
    assert_eq!(requests.len(), 2, "a second try");
    for (request, resend) in requests.iter().zip([None, Some("1")]) {
        assert_eq!(outcome(request), Outcome::Error);
        assert_eq!(attribute(request, "error.type").as_deref(), Some("500"));
        assert_eq!(
            attribute(request, "http.response.status_code").as_deref(),
            Some("500")
        );
        assert_eq!(attribute(request, "http.request.resend_count").as_deref(), resend);
    }
    let call = trace.call_of(&theirs);
    assert_eq!(outcome(call), Outcome::Unset, "the caller's fault");
    assert_eq!(
        attribute(call, "rpc.response.status_code").as_deref(),
        Some("INVALID_ARGUMENT")
    );
    assert_eq!(attribute(call, "error.type"), None);
}

#[tokio::test]
async fn a_refresh_is_a_trace_of_its_own() {
    let fake = Fake::gated(feed).await;
    let collector = Collector::start().await;
    let program = Program::start(&fake, |command| {
        command.args(["--otlp-endpoint", &collector.address, "--fresh-for", "0s"]);
    })
    .await;
    let client = program.client();
    fake.release();
    client.get(CHANNEL).await.expect("an answer");
    fake.arrival().await;
    let caller = Caller::new('a');
    client.ask(caller.asks(CHANNEL)).await.expect("the old answer");
    fake.arrival().await;
    // Torn down with the program. Its span is exported all the same.
    program.stop().await;

    let trace = collector.received();
    let call = trace.call_of(&caller);
    let is_linked = |span: &&Span| span.name == "flight" && links_to(span, call);
    let refresh = trace
        .0
        .iter()
        .find(is_linked)
        .expect("linked to who has started it");
    assert!(refresh.parent_span_id.is_empty());
    assert_ne!(refresh.trace_id, call.trace_id);
    assert!(links_to(call, refresh));
    trace.only(trace.only(refresh, "lookup"), "GET");
}

#[tokio::test]
async fn a_caller_that_disconnects_ends_its_call_and_not_the_flight() {
    let fake = Fake::gated(feed).await;
    let collector = Collector::start().await;
    let program = Program::traced(&fake, &collector).await;
    let caller = Caller::new('a');
    let client = program.client();
    let (asking, asked) = (client.clone(), caller.asks(CHANNEL));
    let call = tokio::spawn(async move { asking.ask(asked).await });
    fake.arrival().await;
    let waited = SystemTime::now();
    call.abort();
    call.await.expect_err("aborted");
    for _ in 0..2 {
        // At the second call on the same connection the server has read the reset of the first.
        client.get("not a channel").await.expect_err("it is none");
    }
    fake.release();
    client.get(CHANNEL).await.expect("an answer");
    program.stop().await;

    let trace = collector.received();
    let left = trace.call_of(&caller);
    assert_eq!(
        attribute(left, "rpc.response.status_code").as_deref(),
        Some("CANCELLED")
    );
    let flight = trace.only(left, "flight");
    let times = [waited, ended(left), ended(flight)];
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test]
async fn calls_that_are_cut_off_at_the_end_are_exported_too() {
    let fake = Fake::gated(feed).await;
    let collector = Collector::start().await;
    let program = Program::start(&fake, |command| {
        command.args(["--otlp-endpoint", &collector.address, "--drain-timeout", "10ms"]);
    })
    .await;
    let caller = Caller::new('a');
    let (client, asked) = (program.client(), caller.asks(CHANNEL));
    let call = tokio::spawn(async move { client.ask(asked).await });
    fake.arrival().await;
    let stopped = SystemTime::now();
    let (code, log) = program.stop_with_code().await;
    assert_eq!(code, Some(1), "{log}");
    call.await.expect("no panic").expect_err("cut off");

    let trace = collector.received();
    let cut_off = trace.call_of(&caller);
    assert_eq!(
        attribute(cut_off, "rpc.response.status_code").as_deref(),
        Some("CANCELLED")
    );
    assert!(ended(cut_off) > stopped);
    trace.only(trace.only(trace.only(cut_off, "flight"), "lookup"), "GET");
}

#[tokio::test]
async fn a_crowd_does_not_make_a_span_grow() {
    let fake = Fake::gated(feed).await;
    let collector = Collector::start().await;
    let program = Program::traced(&fake, &collector).await;
    let mut calls = Vec::new();
    for _connection in 0..4 {
        calls.extend(program.client().start_many(CHANNEL, 100).await);
    }
    fake.release();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    program.stop().await;
    let trace = collector.received();
    let flight = trace
        .0
        .iter()
        .find(|span| span.name == "flight")
        .expect("it is there");
    assert_eq!((flight.links.len(), flight.dropped_links_count), (128, 399 - 128));
    assert_eq!(trace.calls().filter(|call| links_to(call, flight)).count(), 399);
}
