//! The span of a call, with the attributes of OpenTelemetry's conventions for gRPC.
//!
//! <https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>

use http::{HeaderMap, Request};
use tracing::{Span, field::Empty};

use crate::{
    grpc::{self, Ended, Method},
    trace_context,
};

/// The span of a call, until the call ends. `None` unless spans are exported or logged: it then costs a call one comparison and 8 bytes.
#[derive(Debug)]
pub(super) struct CallSpan(Option<Box<Span>>);

impl CallSpan {
    /// Creates the span, as a child of the caller's.
    pub(super) fn new<B>(method: Method, request: &Request<B>) -> Self {
        let span = tracing::debug_span!(
            "call",
            otel.name = method.name(),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = method.name(),
            rpc.response.status_code = Empty,
            "error.type" = Empty,
            plaque.channel_id = Empty,
            plaque.cache_status = Empty,
        );
        if span.is_disabled() {
            return Self(None);
        }
        trace_context::continue_trace(request.headers(), &span);
        Self(Some(Box::new(span)))
    }

    pub(super) fn in_scope<T>(&self, part: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(span) => span.in_scope(part),
            None => part(),
        }
    }

    /// Records the cache status in response headers.
    pub(super) fn record_headers(&self, headers: &HeaderMap) {
        if let Some(span) = &self.0
            && let Some(cache_status) = grpc::cache_status(headers)
        {
            span.record("plaque.cache_status", cache_status);
        }
    }

    /// Ends the span.
    pub(super) fn end(&mut self, ended: Ended) {
        if let Some(span) = self.0.take() {
            span.record("rpc.response.status_code", ended.name());
            if ended.is_server_error() {
                span.record("error.type", ended.name());
                span.record("otel.status_code", "ERROR");
            }
            // Exporters take the time of the last exit as the end of a span.
            span.in_scope(|| ());
        }
    }
}
