//! The canary: a channel that is known to exist, looked up to tell whether 404s mean anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Mutex;

use super::{
    fallback::carry_out,
    outage::{Outage, Verdict},
};
use crate::{
    clock,
    upstream::{LookupRequest, Purpose, Upstream, UpstreamError},
    video::ChannelId,
};

/// The canary and its counters.
pub(super) struct Canary {
    pub(super) channel: ChannelId,
    /// Held during a lookup, so that flights share one. Released at the end of the lookup, or of the flight that makes it.
    lookup: Mutex<()>,
    found: AtomicU64,
    not_found: AtomicU64,
    failed: AtomicU64,
}

impl Canary {
    pub(super) fn new(channel: ChannelId) -> Self {
        Self {
            channel,
            lookup: Mutex::default(),
            found: AtomicU64::new(0),
            not_found: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether 404s mean nothing: looks the canary up, unless another flight has done so meanwhile.
    pub(super) async fn is_outage(&self, outage: &Outage, upstream: &dyn Upstream) -> bool {
        let _lookup = self.lookup.lock().await;
        if let Some(is_outage) = outage.is_outage(clock::now()) {
            return is_outage;
        }
        // Callers wait for this lookup. It is queued with those of channels found before, which the canary nearly always was.
        let request = LookupRequest {
            found_before: true,
            ..LookupRequest::of(Purpose::Awaited)
        };
        let lookup = upstream.look_up(self.channel.into(), request);
        let looked_up = carry_out(upstream.time_limit(), lookup).await;
        let (verdict, count) = match looked_up.map_err(|failure| failure.error) {
            Ok(_channel) => (Verdict::Found, &self.found),
            Err(UpstreamError::NotFound) => (Verdict::NotFound, &self.not_found),
            Err(_) => (Verdict::Failed, &self.failed),
        };
        count.fetch_add(1, Relaxed);
        outage.record_verdict(verdict, clock::now());
        verdict != Verdict::Found
    }

    /// The number of lookups that found it, that did not, and that failed.
    pub(super) fn lookups(&self) -> [u64; 3] {
        [&self.found, &self.not_found, &self.failed].map(|count| count.load(Relaxed))
    }
}
