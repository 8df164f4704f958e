//! Fuzz targets, which `fuzz/` calls: one for each place that reads input from outside. Not part of the program: only the feature `fuzzing`
//! and tests have them.
//!
//! Each takes arbitrary bytes, and panics if something does not hold that must hold for any input. Where the input is more than bytes, the
//! first ones stand for the rest.

#[cfg(test)]
mod tests;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Dispatch;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

pub use crate::{
    channel_name::fuzzing::channel_name,
    grpc::fuzzing::{grpc_timeout, json_query},
    latest::fuzzing::resume_token,
    store::redis::fuzzing::redis_message,
    youtube::{data_api::fuzzing::data_api_answer, fuzzing::retry_after, pages::fuzzing::channel_page},
};
use crate::{
    store::{
        FeedEntry,
        codec::{self, MAX_BYTES, Since},
        lifetime::MAX_FAILURE_LIFETIME,
    },
    trace_context,
    upstream::{Feed, UpstreamError},
    video::{Channel, Kind, MAX_TEXT, MAX_UPLOADS, Picture, steers},
};

/// Whose feed is asked for: most recorded feeds are Kurzgesagt's.
pub(crate) const CHANNEL: &str = "UCsXVk37bltHxD1rDPwtNM8Q";

/// The feed of [`CHANNEL`] that a number means.
pub(crate) fn feed(number: u8) -> Feed {
    Feed {
        channel: CHANNEL.parse().expect("an ID"),
        kind: [None, Some(Kind::Video), Some(Kind::Short)][usize::from(number % 3)],
    }
}

/// What a store has of a feed. The first byte says which feed; the second how long ago it was saved, 255 that nobody knows.
pub fn stored_entry(bytes: &[u8]) {
    let Some(([number, age], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let (feed, now) = (feed(*number), Instant::now());
    let since = match age {
        255 => Since::Unknown {
            at_least: Duration::from_hours(1),
        },
        // To 34 years.
        age => Since::Known(Duration::from_secs(1 << (age % 31))),
    };
    let Ok(known) = codec::decode(bytes, feed, since, now) else {
        return;
    };
    check_known(&known, feed, now);
    let saved = codec::encode(&known, now).expect("whatever is read may be saved");
    assert!(saved.len() <= MAX_BYTES, "{} bytes", saved.len());
    assert_eq!(codec::has_answer(&saved), known.success.is_some());
    let again = codec::decode(&saved, feed, Since::Known(Duration::ZERO), now).expect("what was saved");
    check_known(&again, feed, now);
    assert_eq!(
        codec::encode(&again, now),
        Some(saved),
        "it changes from replica to replica"
    );
}

/// Nothing in an entry is beyond what plaque itself would put there.
pub(crate) fn check_known(known: &FeedEntry, feed: Feed, now: Instant) {
    assert!(known.success.is_some() || known.failure.is_some());
    if let Some(success) = &known.success {
        assert!(success.at <= now, "from the future");
        check_channel(&success.value, feed);
    }
    if let Some(failure) = &known.failure {
        assert!(failure.at <= now, "from the future");
        assert!(
            failure.retry_at <= now + MAX_FAILURE_LIFETIME,
            "a pause that nobody waits for"
        );
        let text = failure.error.to_string();
        assert!(!text.contains(steers), "{text:?} is not one line");
        assert!(text.len() <= 2 * MAX_TEXT);
        match failure.error {
            UpstreamError::RateLimited(_) | UpstreamError::Busy | UpstreamError::Panicked => {
                panic!("{text}: not a failure of the channel")
            }
            _ => {}
        }
    }
}

fn check_channel(channel: &Channel, feed: Feed) {
    assert_eq!(channel.id(), feed.channel);
    assert!(channel.len() <= MAX_UPLOADS && channel.title().len() <= MAX_TEXT);
    assert!(channel.weight() < MAX_BYTES);
    for upload in channel.uploads() {
        assert!(upload.title().len() <= MAX_TEXT);
        assert!(feed.kind.is_none_or(|kind| kind == upload.kind()));
        if let Some(Picture { url, .. }) = upload.picture() {
            let url = url.concat();
            assert!(url.starts_with("https://") && !url.contains(steers), "{url:?}");
        }
    }
    let dates = channel.uploads().map(|upload| upload.moment());
    assert!(dates.is_sorted_by(|before, after| before >= after));
}

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
    let is_taken = trace_context::caller(&received).span().span_context().is_valid();
    assert_eq!(is_taken, named.is_some(), "{received:?}");
    tracing::dispatcher::with_default(&EXPORTS, || {
        let span = tracing::info_span!("call");
        trace_context::continue_trace(&received, &span);
        let mut sent = HeaderMap::new();
        trace_context::inject(&span, &mut sent);
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
