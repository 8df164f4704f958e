//! A channel that exists, looked up where nobody can tell whether a 404 means anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Mutex;

use super::outage::{Outage, Verdict};
use crate::{
    clock,
    upstream::{Caller, LookupRequest, Purpose, Upstream, UpstreamError},
    video::ChannelId,
};

/// The canary, and how often it was looked up.
pub(super) struct Canary {
    pub(super) channel: ChannelId,
    /// Held during a lookup, so that flights in doubt share one. Ends with the lookup, or with the flight that makes it.
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

    /// Whether a 404 says nothing: looks the canary up, unless another flight has done so meanwhile.
    pub(super) async fn settle(&self, outage: &Outage, upstream: &dyn Upstream) -> bool {
        let _lookup = self.lookup.lock().await;
        if let Some(is_outage) = outage.decide(clock::now()) {
            return is_outage;
        }
        // Callers wait for it. It counts as found before, which it nearly always was.
        let request = LookupRequest {
            purpose: Purpose::Awaited,
            found_before: true,
            caller: Caller::default(),
        };
        let looked_up = upstream.look_up(self.channel.into(), request).await;
        let (verdict, count) = match looked_up.map_err(|failure| failure.error) {
            Ok(_channel) => (Verdict::Found, &self.found),
            Err(UpstreamError::NotFound) => (Verdict::NotFound, &self.not_found),
            Err(_) => (Verdict::Failed, &self.failed),
        };
        count.fetch_add(1, Relaxed);
        outage.settle(verdict, clock::now());
        verdict != Verdict::Found
    }

    /// How many lookups have found it, have not, and have failed.
    pub(super) fn lookups(&self) -> [u64; 3] {
        [&self.found, &self.not_found, &self.failed].map(|count| count.load(Relaxed))
    }
}
