//! Fuzz target of this module: see [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how it finds something")]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Dispatch;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

/// The subscriber of a server that exports spans, but to nobody.
static EXPORTS: LazyLock<Dispatch> = LazyLock::new(|| {
    let tracer = SdkTracerProvider::builder().build().tracer("fuzzing");
    Dispatch::new(Registry::default().with(tracing_opentelemetry::layer().with_tracer(tracer)))
});

/// A caller's headers: `traceparent`, and after a line break `tracestate`.
pub fn traceparent(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let mut received = HeaderMap::new();
    for name in ["traceparent", "tracestate"] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            received.insert(name, value);
        }
    }
    let named = received.get("traceparent").and_then(|value| value.to_str().ok());
    let named = named.and_then(trace_of);
    let is_taken = super::caller(&received).span().span_context().is_valid();
    assert_eq!(is_taken, named.is_some(), "{received:?}");
    tracing::dispatcher::with_default(&EXPORTS, || {
        let span = tracing::info_span!("call");
        super::continue_trace(&received, &span);
        let mut sent = HeaderMap::new();
        super::inject(&span, &mut sent);
        let parent = sent.get("traceparent").and_then(|value| value.to_str().ok());
        let parent = parent.expect("the span has a name for others");
        assert_eq!(parent.len(), 55);
        let passed_on = trace_of(parent).expect("well-formed");
        match named {
            Some(trace) => assert_eq!(passed_on, trace, "another trace"),
            None => assert!(
                !sent.contains_key("tracestate"),
                "the state of a trace that is not"
            ),
        }
    });
}

/// The trace that a `traceparent` names, by the words of the specification: version, trace, parent, flags, in lower-case hexadecimal.
fn trace_of(text: &str) -> Option<&str> {
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags, others @ ..] = fields.as_slice() else {
        return None;
    };
    let is_hex = |field: &str, length| {
        let digits = field
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits && field.len() == length
    };
    let is_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_known = *version != "ff" && (*version != "00" || others.is_empty());
    let is_some = |field: &str| field.bytes().any(|byte| byte != b'0');
    (is_formed && is_known && is_some(trace) && is_some(parent)).then_some(trace)
}
