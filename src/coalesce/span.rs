//! A flight's span: linked with the spans of all who wait for it, so that a trace shows who waited for whom.

use std::sync::OnceLock;

use tracing::{Id, Span, field::Empty};

/// The span of a flight. Whoever opens the flight makes it, and so may who joins before that; never under a shard's lock, since
/// it runs the subscriber's code.
pub(super) struct FlightSpan {
    /// The span of whoever opens the flight, which is there until [`get`](Self::get) has returned to them. Not held on to: a caller
    /// who leaves is done.
    parent: Option<Id>,
    span: OnceLock<Span>,
}

impl FlightSpan {
    /// The span of a flight that is part of what `parent` does, or of one that stands on its own.
    pub(super) fn new(parent: Option<Id>) -> Self {
        Self {
            parent,
            span: OnceLock::new(),
        }
    }

    pub(super) fn get(&self) -> &Span {
        self.span.get_or_init(|| {
            tracing::debug_span!(
                parent: self.parent.clone(),
                "flight",
                otel.status_code = Empty,
                otel.status_description = Empty,
            )
        })
    }

    /// Shows in each of the two spans the other.
    pub(super) fn link(&self, caller: &Span) {
        if !caller.is_disabled() {
            let flight = self.get();
            // First the caller's: whoever links to a span starts it, and one that is started keeps no more links than it may. The
            // other way round a crowd's would pile up until the flight's task gets its turn.
            caller.follows_from(flight);
            flight.follows_from(caller);
        }
    }
}
