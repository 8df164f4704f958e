//! A flight's span, linked with the spans of all its waiters, so that traces show which flight a caller waited for.
//!
//! Without the feature `tracing`, `no_span.rs` takes its place.

use std::sync::OnceLock;

use tracing::{Id, Instrument as _, field::Empty};

use super::error::FlightError;

/// Makes a flight's span, from the ID of its parent.
#[derive(Clone, Copy)]
pub(crate) struct SpanMaker(pub(crate) fn(Option<Id>) -> tracing::Span);

impl Default for SpanMaker {
    fn default() -> Self {
        Self(|parent| {
            tracing::debug_span!(
                target: "coalesce",
                parent: parent,
                "flight",
                otel.status_code = Empty,
                otel.status_description = Empty,
            )
        })
    }
}

/// A span of a caller or a flight.
#[derive(Clone)]
pub(crate) struct Span(tracing::Span);

impl Span {
    /// The span that the caller is in.
    pub(crate) fn current() -> Self {
        Self(tracing::Span::current())
    }

    pub(crate) fn instrument<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        future.instrument(self.0)
    }
}

/// Records in the current span, which is a flight's, why it failed.
pub(crate) fn record(error: &FlightError) {
    let span = tracing::Span::current();
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", error.to_string());
}

/// The span of a flight. Created by the caller that opens the flight, or by one that joins before that; never
/// under a shard's lock, since the subscriber's code runs.
pub(crate) struct FlightSpan {
    maker: SpanMaker,
    /// The span of the caller that opens the flight, which is there until [`get`](Self::get) has returned to
    /// it. Not held on to: a caller that leaves is done.
    parent: Option<Id>,
    span: OnceLock<Span>,
}

impl FlightSpan {
    /// The span of a flight as a child of `caller`.
    pub(crate) fn within(maker: SpanMaker, caller: &Span) -> Self {
        Self {
            maker,
            parent: caller.0.id(),
            span: OnceLock::new(),
        }
    }

    /// The span of a flight without a parent.
    pub(crate) fn root(maker: SpanMaker) -> Self {
        Self {
            maker,
            parent: None,
            span: OnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> &Span {
        self.span
            .get_or_init(|| Span((self.maker.0)(self.parent.clone())))
    }

    /// Links the two spans with each other.
    pub(crate) fn link(&self, caller: &Span) {
        let caller = &caller.0;
        if !caller.is_disabled() {
            let flight = &self.get().0;
            // The caller's first: a link starts the span that it points to, and only a started span limits its
            // links. Otherwise the links of many callers would pile up until the flight's task runs.
            caller.follows_from(flight);
            flight.follows_from(caller);
        }
    }
}
