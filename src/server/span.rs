//! A call's span, by OpenTelemetry's conventions for RPC.
//!
//! <https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>

use http::{HeaderMap, Request};
use tracing::{Span, field::Empty};

use crate::{
    grpc::{self, Ended, Method},
    trace_context,
};

/// The span of a call, until the call ends. There is none unless somebody looks: spans are exported, or the log shows them. A hit
/// then costs one comparison more, and a call 8 bytes.
#[derive(Debug)]
pub(super) struct CallSpan(Option<Box<Span>>);

impl CallSpan {
    /// Begins the span, as a part of the caller's.
    pub(super) fn begin<B>(method: Method, request: &Request<B>) -> Self {
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

    /// Runs a part of the call.
    pub(super) fn in_scope<T>(&self, part: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(span) => span.in_scope(part),
            None => part(),
        }
    }

    /// Notes what the headers of an answer say.
    pub(super) fn note(&self, headers: &HeaderMap) {
        if let Some(span) = &self.0
            && let Some(made) = grpc::cache_status(headers)
        {
            span.record("plaque.cache_status", made);
        }
    }

    /// Ends the span.
    pub(super) fn end(&mut self, ended: Ended) {
        if let Some(span) = self.0.take() {
            span.record("rpc.response.status_code", ended.name());
            if ended.is_our_fault() {
                span.record("error.type", ended.name());
                span.record("otel.status_code", "ERROR");
            }
            // A span ends when it is left for the last time.
            span.in_scope(|| ());
        }
    }
}
