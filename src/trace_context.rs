//! W3C trace context: the trace that a caller is in goes on here, and from here upstream.
//!
//! <https://www.w3.org/TR/trace-context/>

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Makes `span`, which is new, a child of the span that the headers of a caller name. Headers that name none, or make no sense,
/// leave it the first of a trace.
pub(crate) fn take(headers: &HeaderMap, span: &Span) {
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers));
    if caller.span().span_context().is_valid() {
        // Refused only where spans are not exported.
        let _ = span.set_parent(caller);
    }
}

/// The header that names a span.
const TRACE_PARENT: &str = "traceparent";

/// Names `span` to whoever is sent `headers`, unless spans are not exported. What callers have sent beside their own span's name
/// (`tracestate`, `baggage`) stays here.
pub(crate) fn pass_on(span: &Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Sent(headers));
}

struct Received<'a>(&'a HeaderMap);

impl Extractor for Received<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Sent<'a>(&'a mut HeaderMap);

impl Injector for Sent<'_> {
    fn set(&mut self, name: &str, value: String) {
        // Beside it there is the state, which callers and whoever is between us and them leave for each other.
        if name != TRACE_PARENT {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
