//! A collector of spans in this process, and what it received.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
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
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Request, Status};

use crate::support::request;

/// How long to wait before a test fails: the program or the collector hangs.
pub(super) const HANG_LIMIT: Duration = Duration::from_mins(1);

/// A collector in this process.
pub(super) struct Collector {
    pub(super) address: String,
    pub(super) refuses: Arc<AtomicBool>,
    pub(super) batches: mpsc::UnboundedReceiver<(Resource, Vec<Span>)>,
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
    pub(super) async fn start() -> Self {
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
    pub(super) async fn batch(&mut self) -> Vec<Span> {
        let batch = timeout(HANG_LIMIT, self.batches.recv()).await;
        batch.expect("it comes").expect("the collector runs").1
    }

    /// All that has come so far.
    pub(super) fn received(mut self) -> Trace {
        let mut spans = Vec::new();
        while let Ok((_, batch)) = self.batches.try_recv() {
            spans.extend(batch);
        }
        Trace(spans)
    }
}

pub(super) struct Trace(pub(super) Vec<Span>);

impl Trace {
    pub(super) fn calls(&self) -> impl Iterator<Item = &Span> {
        self.0.iter().filter(|span| span.kind() == SpanKind::Server)
    }

    /// The call of the caller whose span is `caller`.
    pub(super) fn call_of(&self, caller: &Caller) -> &Span {
        let mut found = self
            .calls()
            .filter(|call| hex(&call.parent_span_id) == caller.span);
        let call = found.next().expect("the call is there");
        assert!(found.next().is_none(), "once");
        assert_eq!(hex(&call.trace_id), caller.trace);
        call
    }

    /// The spans of this name within `parent`.
    pub(super) fn within(&self, parent: &Span, name: &str) -> Vec<&Span> {
        let within = |span: &&Span| {
            span.name == name && span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id
        };
        self.0.iter().filter(within).collect()
    }

    pub(super) fn only<'a>(&'a self, parent: &Span, name: &str) -> &'a Span {
        let found = self.within(parent, name);
        assert_eq!(found.len(), 1, "{name} in {}", parent.name);
        found[0]
    }
}

/// A caller with a span of its own.
pub(super) struct Caller {
    pub(super) trace: String,
    pub(super) span: String,
    pub(super) sampled: bool,
}

impl Caller {
    pub(super) fn new(letter: char) -> Self {
        Self {
            trace: letter.to_string().repeat(32),
            span: letter.to_string().repeat(16),
            sampled: true,
        }
    }

    pub(super) fn asks(&self, channel: &str) -> Request<plaque::proto::v1::GetLatestVideoRequest> {
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

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn ended(span: &Span) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(span.end_time_unix_nano)
}

pub(super) fn outcome(span: &Span) -> Outcome {
    span.status.as_ref().map_or(
        Outcome::Unset,
        opentelemetry_proto::tonic::trace::v1::Status::code,
    )
}

pub(super) fn links_to(span: &Span, other: &Span) -> bool {
    let is_other = |(trace, id): (&Vec<u8>, &Vec<u8>)| *trace == other.trace_id && *id == other.span_id;
    span.links
        .iter()
        .any(|link| is_other((&link.trace_id, &link.span_id)))
}
