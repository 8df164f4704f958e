//! A call's span, by OpenTelemetry's conventions for RPC.
//!
//! <https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>

use http::{HeaderMap, Request};
use tracing::{Span, field::Empty};

use crate::{
    grpc::{self, Ending},
    trace_context,
};

/// The span of a call, until the call ends. There is none unless somebody looks: spans are exported, or the log shows them. A hit
/// then costs one comparison more, and a call 8 bytes.
#[derive(Debug, Default)]
pub(super) struct CallSpan(Option<Box<Span>>);

impl CallSpan {
    /// Begins the span, as a part of the caller's.
    pub(super) fn begin<B>(request: &Request<B>) -> Self {
        let path = request.uri().path();
        let span = tracing::debug_span!(
            "call",
            otel.name = grpc::method(path),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = grpc::method(path),
            rpc.response.status_code = Empty,
            "error.type" = Empty,
            plaque.channel_id = Empty,
            plaque.cache_status = Empty,
        );
        if span.is_disabled() {
            return Self(None);
        }
        trace_context::take(request.headers(), &span);
        Self(Some(Box::new(span)))
    }

    /// Runs a part of the call.
    pub(super) fn in_scope<T>(&self, part: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(span) => span.in_scope(part),
            None => part(),
        }
    }

    /// Notes what the headers of an answer or its trailers say. With the status that is in one of them the call ends.
    pub(super) fn note(&mut self, headers: &HeaderMap) {
        let Some(span) = &self.0 else {
            return;
        };
        if let Some(made) = grpc::cache_status(headers) {
            span.record("plaque.cache_status", made);
        }
        if let Some(ending) = grpc::ending(headers) {
            self.end(&ending);
        }
    }

    fn end(&mut self, ending: &Ending) {
        if let Some(span) = self.0.take() {
            span.record("rpc.response.status_code", ending.name.as_str());
            if ending.is_our_fault {
                span.record("error.type", ending.name.as_str());
                span.record("otel.status_code", "ERROR");
            }
            // A span ends when it is left for the last time.
            span.in_scope(|| ());
        }
    }
}

impl Drop for CallSpan {
    /// Nobody waits for the answer any more.
    fn drop(&mut self) {
        self.end(&Ending::cancelled());
    }
}
