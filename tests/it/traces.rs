//! Traces as received by a collector. The program exports them, since a process can have only one subscriber.
#![cfg(unix)]

use std::{
    collections::HashSet,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode as Outcome},
};
use plaque::origin::{self, Lookup};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Code, Request, Status};

use crate::{
    program::{assert_refused, first_line, plaque, plaque_serve},
    support::{Answered, CHANNEL, Client, Fake, feed, request},
};

/// Of a program that hangs.
const TOO_LONG: Duration = Duration::from_mins(1);

/// A collector in this process.
struct Collector {
    address: String,
    refuses: Arc<AtomicBool>,
    batches: mpsc::UnboundedReceiver<(Resource, Vec<Span>)>,
}

struct Service {
    refuses: Arc<AtomicBool>,
    batches: mpsc::UnboundedSender<(Resource, Vec<Span>)>,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let batch = (of_resource.resource.unwrap_or_default(), spans.collect());
            self.batches.send(batch).expect("the test goes on");
        }
        if self.refuses.load(SeqCst) {
            return Err(Status::permission_denied("no"));
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        #[expect(clippy::disallowed_methods, reason = "as many as one test exports")]
        let (sender, batches) = mpsc::unbounded_channel();
        let refuses = Arc::new(AtomicBool::new(false));
        let service = TraceServiceServer::from_arc(Arc::new(Service {
            refuses: Arc::clone(&refuses),
            batches: sender,
        }));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self {
            address,
            refuses,
            batches,
        }
    }

    /// The next batch.
    async fn batch(&mut self) -> Vec<Span> {
        let batch = timeout(TOO_LONG, self.batches.recv()).await;
        batch.expect("it comes").expect("the collector runs").1
    }

    /// All that has come so far.
    fn received(mut self) -> Trace {
        let mut spans = Vec::new();
        while let Ok((_, batch)) = self.batches.try_recv() {
            spans.extend(batch);
        }
        Trace(spans)
    }
}

struct Trace(Vec<Span>);

impl Trace {
    fn calls(&self) -> impl Iterator<Item = &Span> {
        self.0.iter().filter(|span| span.kind() == SpanKind::Server)
    }

    /// The call of the caller whose span is `caller`.
    fn call_of(&self, caller: &Caller) -> &Span {
        let mut found = self
            .calls()
            .filter(|call| hex(&call.parent_span_id) == caller.span);
        let call = found.next().expect("the call is there");
        assert!(found.next().is_none(), "once");
        assert_eq!(hex(&call.trace_id), caller.trace);
        call
    }

    /// The spans of this name within `parent`.
    fn within(&self, parent: &Span, name: &str) -> Vec<&Span> {
        let within = |span: &&Span| {
            span.name == name && span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id
        };
        self.0.iter().filter(within).collect()
    }

    fn only<'a>(&'a self, parent: &Span, name: &str) -> &'a Span {
        let found = self.within(parent, name);
        assert_eq!(found.len(), 1, "{name} in {}", parent.name);
        found[0]
    }
}

/// A caller with a span of its own.
struct Caller {
    trace: String,
    span: String,
    sampled: bool,
}

impl Caller {
    fn new(letter: char) -> Self {
        Self {
            trace: letter.to_string().repeat(32),
            span: letter.to_string().repeat(16),
            sampled: true,
        }
    }

    fn asks(&self, channel: &str) -> Request<plaque::proto::v1::GetLatestVideoRequest> {
        let flags = if self.sampled { "01" } else { "00" };
        let parent = format!("00-{}-{}-{flags}", self.trace, self.span);
        let mut request = Request::new(request(channel));
        let metadata = request.metadata_mut();
        metadata.insert("traceparent", parent.parse().expect("ASCII"));
        metadata.insert("tracestate", "shop=1".parse().expect("ASCII"));
        metadata.insert("baggage", "customer=ann".parse().expect("ASCII"));
        request
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn ended(span: &Span) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(span.end_time_unix_nano)
}

fn outcome(span: &Span) -> Outcome {
    span.status.as_ref().map_or(
        Outcome::Unset,
        opentelemetry_proto::tonic::trace::v1::Status::code,
    )
}

fn links_to(span: &Span, other: &Span) -> bool {
    let is_other = |(trace, id): (&Vec<u8>, &Vec<u8>)| *trace == other.trace_id && *id == other.span_id;
    span.links
        .iter()
        .any(|link| is_other((&link.trace_id, &link.span_id)))
}

/// `plaque serve` over a fake upstream.
pub struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    pub async fn start(fake: &Fake, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = plaque_serve();
        command.args(["--upstream", fake.origin.url().as_str()]);
        adjust(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let first = first_line(&mut child).await;
        let address = first.trim().rsplit(' ').next().expect("the address comes last");
        Self {
            child,
            address: address.parse().expect("an address"),
        }
    }

    async fn traced(fake: &Fake, collector: &Collector) -> Self {
        Self::start(fake, |command| {
            command.args(["--otlp-endpoint", &collector.address]);
        })
        .await
    }

    pub fn client(&self) -> Client {
        Client::of(self.address)
    }

    /// Stops it, which goes well. Returns what it has logged.
    pub async fn stop(self) -> String {
        let (code, log) = self.end().await;
        assert_eq!(code, Some(0), "{log}");
        log
    }

    /// Stops it. Returns its exit code and what it has logged.
    async fn end(self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.expect("kill is there").success());
        let ended = tokio::task::spawn_blocking(move || self.child.wait_with_output());
        let ended = timeout(TOO_LONG, ended).await.expect("it ends");
        let output = ended.expect("no panic").expect("it ran");
        let log = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), log)
    }
}

/// A feed whose title is the trace context that the lookup sent.
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
    let (code, log) = program.end().await;
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

#[tokio::test]
async fn an_outage_of_the_collector_is_logged_once_and_so_is_its_end() {
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
async fn without_a_collector_the_server_serves_and_stops_and_logs_it_once() {
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
async fn a_trace_for_perfetto_is_complete_when_the_program_has_ended() {
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
        1,
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
