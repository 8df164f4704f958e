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
    let caller = caller(headers);
    if caller.span().span_context().is_valid() {
        // Refused only where spans are not exported.
        let _ = span.set_parent(caller);
    }
}

/// The span that headers name, as the only thing in a context; none that is valid if they name none.
pub(crate) fn caller(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers))
}

/// Names `span` to whoever is sent `headers`, unless spans are not exported. What callers have sent beside their own span's name
/// (`tracestate`, `baggage`) stays here.
pub(crate) fn pass_on(span: &Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Sent(headers));
}

/// The header that names a span.
const TRACEPARENT: &str = "traceparent";

/// Whether this has the form of a `traceparent`: version, trace, parent and flags, each with all of its digits, and more only in a version
/// to come. OpenTelemetry's reader takes `00-1-2-+1`, too, and would put it into the trace of somebody else.
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
        // Beside it there is the state, which callers and whoever is between us and them leave for each other.
        if name != TRACEPARENT {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn is_taken(traceparent: &str) -> bool {
        let value = HeaderValue::from_str(traceparent).expect("a header");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), value)]);
        caller(&headers).span().span_context().is_valid()
    }

    #[test]
    fn a_trace_goes_on_if_its_name_is_whole() {
        for whole in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-ff"),
            format!("cc-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01-more"),
        ] {
            assert!(is_taken(&whole), "{whole}");
        }
        for other in [
            String::new(),
            "00-1-2-1".into(),
            "00-+1-2-1".into(),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("cc-{TRACE}-{PARENT}-01more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("0-{TRACE}-{PARENT}-001"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!(" 00-{TRACE}-{PARENT}-01"),
        ] {
            assert!(!is_taken(&other), "{other}");
        }
    }
}
