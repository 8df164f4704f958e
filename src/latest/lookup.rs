//! What a flight does: checks the cache and the store, waits for admission and for the lease, and asks the upstream.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Instant};

use coalesce::FetchContext;
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture, pending},
};
use tokio::time::{timeout, timeout_at};

use super::{
    FLIGHT_GRACE, FeedEntry, FromCache,
    fallback::carry_out,
    fetcher::{Fetcher, FlightRequest},
    snapshot,
};
use crate::{
    cache_entry::{CacheEntry, Failure},
    clock,
    store::Lease,
    upstream::{self, Feed, Lookup, Purpose, UpstreamError},
    video::Channel,
};

/// What a flight does once it is admitted.
enum AfterAdmission<'a> {
    /// Asks the feed, and the other sources if that fails.
    All(Lookup<'a>),
    /// Asks the other sources, since the feed has its backoff after this failure.
    Others(Failure<UpstreamError>),
}

/// The failure of the feed, as long as its backoff lasts.
fn backoff(entry: Option<&FeedEntry>) -> Option<&Failure<UpstreamError>> {
    let failure = entry?.failure.as_ref()?;
    (clock::now() < failure.retry_at).then_some(failure)
}

impl Fetcher {
    /// The fetch of a flight that is started for `request`, by a caller that arrived at `arrived_at` and was given the cached entry `seen`.
    pub(super) fn lookup(
        self: &Arc<Self>,
        request: FlightRequest,
        arrived_at: Instant,
        seen: Option<Arc<FeedEntry>>,
    ) -> impl FnOnce(FetchContext<Feed, Arc<FeedEntry>>) -> BoxFuture<'static, Arc<FeedEntry>> + Send + 'static
    {
        let fetcher = Arc::clone(self);
        move |FetchContext { cached, waiters, .. }| {
            Box::pin(async move {
                // The cache may have no room for it.
                let cached = cached.or(seen);
                let unwanted = async {
                    match request.purpose {
                        Purpose::Awaited => waiters.all_left().await,
                        // These go on without waiters.
                        Purpose::Refresh | Purpose::Poll => pending().await,
                    }
                };
                let looked_up = fetcher.look_up(request, arrived_at, cached.clone(), unwanted);
                let looked_up = AssertUnwindSafe(timeout(fetcher.flight_limit, looked_up));
                // Cached like any failure, so that the next callers do not start another flight at once.
                let fail = |error: UpstreamError| {
                    let entry = fetcher.failure(error.into(), cached.as_deref(), clock::now());
                    fetcher.report(&request, entry)
                };
                let landed = match looked_up.catch_unwind().await {
                    Ok(Ok(entry)) => entry,
                    Ok(Err(_elapsed)) => fail(UpstreamError::TimedOut(fetcher.flight_limit)),
                    Err(_panic) => fail(UpstreamError::Panicked),
                };
                if let Some(cached) = cached.filter(|cached| !Arc::ptr_eq(cached, &landed)) {
                    landed.hits.continue_from(&cached.hits);
                }
                landed
            })
        }
    }

    /// Looks up the feed, unless the cache or the store has a sufficient entry, or all callers have left (`unwanted`) before admission.
    async fn look_up(
        &self,
        request: FlightRequest,
        arrived_at: Instant,
        mut entry: Option<Arc<FeedEntry>>,
        unwanted: impl Future<Output = ()>,
    ) -> Arc<FeedEntry> {
        let feed = request.feed;
        let mut unwanted = pin!(unwanted);
        if let Some(entry) = entry.take_if(|entry| self.is_sufficient(entry, &request, arrived_at, false)) {
            return entry;
        }
        // Another replica gets as long as a lookup may take. If it hangs, there is time left for a lookup of our own.
        let patience = tokio::time::Instant::now() + self.upstream.time_limit() + FLIGHT_GRACE / 2;
        let mut is_patient = true;
        loop {
            if let Some(stored) = self.load(feed, entry.as_deref()).await {
                // Its callers start another flight for the lookup, for whose end they need not wait now that they have the last success.
                let is_news = entry.is_none() && stored.success.is_some();
                if is_news || self.is_sufficient(&stored, &request, arrived_at, true) {
                    return stored;
                }
                entry = Some(stored);
            }
            let admission = request.for_upstream(entry.as_deref());
            let lookup = if let Some(failure) = backoff(entry.as_deref()) {
                AfterAdmission::Others(failure.clone())
            } else {
                let admitted = async {
                    self.skip_if_it_hangs(feed)?;
                    self.upstream.admit(feed, admission).await
                };
                let admitted = tokio::select! {
                    biased;
                    () = &mut unwanted => return self.not_admitted(entry.as_deref()),
                    admitted = admitted => admitted,
                };
                match admitted {
                    Ok(lookup) => AfterAdmission::All(lookup),
                    // Another source may have an answer, which then is saved as that of a lookup.
                    Err(failure) if self.has_fallback_after(&failure.error) => {
                        AfterAdmission::All(future::ready(Err(failure)).boxed())
                    }
                    Err(failure) => return self.finish(&request, Err(failure), entry.as_deref()).await,
                }
            };
            let Some(store) = &self.store else {
                return self.ask(&request, lookup, entry.as_deref()).await;
            };
            // Only after admission, so that no other replica waits for this one's queue.
            let lease = if is_patient {
                store.lease(feed).await
            } else {
                Lease::Uncoordinated
            };
            match lease {
                Lease::HeldElsewhere(ended) => {
                    // Gives the permit back.
                    drop(lookup);
                    is_patient = timeout_at(patience, ended).await.is_ok();
                    continue;
                }
                // Its last holder may have saved something between our load and our lease.
                Lease::Acquired(_) => {
                    if let Some(stored) = self.load(feed, entry.as_deref()).await {
                        if self.is_sufficient(&stored, &request, arrived_at, true) {
                            return stored;
                        }
                        entry = Some(stored);
                    }
                }
                Lease::Uncoordinated => {}
            }
            let found = self.ask(&request, lookup, entry.as_deref()).await;
            if store.save(feed, &found, lease).await {
                return found;
            }
            // The lookup took longer than the lease, and another replica has saved a newer entry.
            return self.load(feed, entry.as_deref()).await.unwrap_or(found);
        }
    }

    /// Fails while the feed hangs. Not without other sources: then a wait is the only way to an answer.
    fn skip_if_it_hangs(&self, feed: Feed) -> Result<(), upstream::Failure> {
        if self.fallbacks.is_empty() {
            return Ok(());
        }
        self.hang.admit(feed, self.upstream.time_limit(), clock::now())
    }

    /// Asks the feed and then the other sources, or only these.
    async fn ask(
        &self,
        request: &FlightRequest,
        lookup: AfterAdmission<'_>,
        entry: Option<&FeedEntry>,
    ) -> Arc<FeedEntry> {
        match lookup {
            AfterAdmission::All(lookup) => {
                let looked_up = match carry_out(self.upstream.time_limit(), lookup).await {
                    Ok(channel) => Ok(self.unless_it_lags(request, channel, entry).await),
                    failed @ Err(_) => failed,
                };
                self.finish(request, looked_up, entry).await
            }
            AfterAdmission::Others(failure) => self.ask_others(request, failure, entry).await,
        }
    }

    /// The snapshot of another source if the feed lags and one has it, or else that of the feed.
    async fn unless_it_lags(
        &self,
        request: &FlightRequest,
        channel: Channel,
        known: Option<&FeedEntry>,
    ) -> Channel {
        let success = known.and_then(|known| known.success.as_ref());
        let (usable_for, now) = (self.policy.usable_for(), clock::now());
        if !success.is_some_and(|success| snapshot::lags(&channel, success, usable_for, now)) {
            return channel;
        }
        let (lookup, lags) = (request.for_upstream(known), UpstreamError::SuspectSnapshot);
        let others = self.fallbacks.look_up(request.feed, &lookup, lags.into());
        others.await.unwrap_or(channel)
    }

    /// Whether `entry` makes the lookup unnecessary. A stale answer that may be served while it is revalidated is sufficient if it is
    /// `from_store`: its caller starts the revalidation.
    fn is_sufficient(
        &self,
        entry: &FeedEntry,
        request: &FlightRequest,
        arrived_at: Instant,
        from_store: bool,
    ) -> bool {
        let can_ask_others = self.can_ask_others(Some(entry), || *request);
        let now = clock::now();
        match self
            .policy
            .decide(Some(entry), request.max_age, arrived_at, now, can_ask_others)
        {
            Ok(FromCache::Answer { revalidate, .. }) => {
                !revalidate || from_store && request.purpose == Purpose::Awaited
            }
            Ok(FromCache::Fallback(..) | FromCache::Failure(_)) => true,
            Err(_reason) => false,
        }
    }

    /// Whether other sources can be asked for this request during the backoff of the feed, since they were not asked when it failed.
    pub(super) fn can_ask_others(
        &self,
        entry: Option<&FeedEntry>,
        request: impl FnOnce() -> FlightRequest,
    ) -> bool {
        let failure = entry.and_then(|entry| entry.failure.as_ref());
        failure.is_some_and(|failure| failure.out_of_budget)
            && self.fallbacks.have_budget(&request().for_upstream(entry))
    }

    /// Asks the other sources during the backoff of the feed, which goes on if they fail, too.
    pub(super) async fn ask_others(
        &self,
        request: &FlightRequest,
        before: Failure<UpstreamError>,
        known: Option<&FeedEntry>,
    ) -> Arc<FeedEntry> {
        let lookup = request.for_upstream(known);
        let first = before.error.clone().into();
        let entry = match self.fallbacks.look_up(request.feed, &lookup, first).await {
            Ok(channel) => self.found(request.feed, channel, known).await,
            Err(failure) if failure.error == UpstreamError::NoSuchChannel => {
                self.failure(failure, known, clock::now())
            }
            Err(upstream::Failure { out_of_budget, .. }) => {
                let failure = Failure {
                    at: clock::now(),
                    out_of_budget,
                    ..before
                };
                CacheEntry::failed(known.and_then(|known| known.success.clone()), failure)
            }
        };
        self.report(request, entry)
    }

    /// Tells the upstream that one more caller waits for a lookup, which may still be queued there.
    pub(super) fn note_joined(&self, request: &FlightRequest, entry: Option<&FeedEntry>) {
        self.upstream.joined(request.feed, request.for_upstream(entry));
    }

    /// The outcome of a lookup that all callers have left. It is not cached.
    fn not_admitted(&self, entry: Option<&FeedEntry>) -> Arc<FeedEntry> {
        Arc::new(self.failure(UpstreamError::Busy.into(), entry, clock::now()))
    }
}
