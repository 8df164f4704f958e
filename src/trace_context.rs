//! W3C trace context: continues a caller's trace here, and from here upstream.
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

/// Makes a new `span` a child of the span that a caller's headers name. With missing or invalid headers it stays the root of a trace.
pub(crate) fn continue_trace(headers: &HeaderMap, span: &Span) {
    let caller = caller(headers);
    if caller.span().span_context().is_valid() {
        // Fails only if spans are not exported.
        let _ = span.set_parent(caller);
    }
}

/// A context with nothing but the span that the headers name; an invalid one if there is none.
pub(crate) fn caller(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers))
}

/// Adds `span` to the `headers` of a request, unless spans are not exported. A caller's `tracestate` and `baggage` are not passed on.
pub(crate) fn inject(span: &Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Sent(headers));
}

const TRACEPARENT: &str = "traceparent";

/// Whether a text has the form of a `traceparent`: version, trace, parent and flags with all of their digits, and more only in later
/// versions. OpenTelemetry's parser also accepts `00-1-2-+1`, and would join another trace.
fn is_traceparent(text: &str) -> bool {
    let is_formed = |(place, byte)| match place {
        2 | 35 | 52 | 55 => byte == b'-',
        0..55 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        _ => true,
    };
    let is_long = text.len() == 55 || text.len() > 55 && !text.starts_with("00");
    is_long && text.bytes().enumerate().all(is_formed)
}

struct Received<'a>(&'a HeaderMap);

impl Extractor for Received<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.to_str().ok()?;
        (name != TRACEPARENT || is_traceparent(value)).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Sent<'a>(&'a mut HeaderMap);

impl Injector for Sent<'_> {
    fn set(&mut self, name: &str, value: String) {
        // `tracestate` is between callers and what is between them and plaque.
        if name != TRACEPARENT {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests;
