//! What flights share, and how the outcome of a lookup becomes a cache entry: classified, merged, reported to the outage detector and
//! published to watchers.

use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use coalesce::Coalescer;

use super::{
    FeedEntry, LookupError, Policy, Settings,
    canary::Canary,
    fallback::Fallbacks,
    hang::HangBreaker,
    health::SourceFailures,
    hub::Hubs,
    newest::NewestUploads,
    outage::{self, Outage},
    polling::Polling,
    remote_updates::LostMessages,
    snapshot,
    timeline::{Health, Problem},
};
use crate::{
    cache_entry::{CacheEntry, Failure, Success},
    clock,
    store::{Lease, Store},
    upstream::{self, Caller, Feed, LookupRequest, Purpose, SourceHealth, Upstream, UpstreamError},
    video::{Channel, Kind, Source},
};

/// Looks feeds up. Shared by all flights; has no state of callers.
pub(super) struct Fetcher {
    pub(super) upstream: Arc<dyn Upstream>,
    /// Those of `upstream`.
    failures: SourceFailures,
    pub(super) hang: HangBreaker,
    pub(super) fallbacks: Fallbacks,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) policy: Policy,
    /// The cached entries, for those that change beside that of the flight.
    cache: Coalescer<Feed, Arc<FeedEntry>>,
    outage: Outage,
    canary: Option<Canary>,
    /// How long a flight may take, including the time that it waits.
    pub(super) flight_limit: Duration,
    /// The watchers. The outcome of every lookup is published to them.
    hubs: Arc<Hubs>,
    pub(super) newest: NewestUploads,
    pub(super) lost_messages: LostMessages,
}

/// What a flight is started for.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlightRequest {
    pub(super) feed: Feed,
    /// The greatest age that is accepted; `fresh_for` of the policy by default.
    pub(super) max_age: Option<Duration>,
    pub(super) purpose: Purpose,
    pub(super) caller: Caller,
}

impl FlightRequest {
    /// What the upstream's queue needs to know of the lookup.
    pub(super) fn for_upstream(&self, entry: Option<&FeedEntry>) -> LookupRequest {
        let success = entry.and_then(|entry| entry.success.as_ref());
        LookupRequest {
            purpose: self.purpose,
            // The feed of a kind is looked up only if the channel's own was found.
            found_before: self.feed.kind.is_some() || success.is_some(),
            known: success.map(|success| Arc::clone(&success.value)),
            caller: self.caller,
        }
    }
}

impl Fetcher {
    pub(super) fn new(
        upstream: Arc<dyn Upstream>,
        fallbacks: Fallbacks,
        store: Option<Arc<dyn Store>>,
        cache: Coalescer<Feed, Arc<FeedEntry>>,
        settings: &Settings,
        flight_limit: Duration,
    ) -> Self {
        Self {
            upstream,
            failures: SourceFailures::default(),
            hang: HangBreaker::default(),
            fallbacks,
            store,
            policy: settings.policy,
            cache,
            outage: Outage::new(settings.canary.is_some()),
            canary: settings.canary.map(Canary::new),
            flight_limit,
            hubs: Arc::new(Hubs::new(settings.max_watched, Polling::new(settings))),
            newest: NewestUploads::default(),
            lost_messages: LostMessages::default(),
        }
    }

    pub(super) fn store(&self) -> Option<&dyn Store> {
        self.store.as_deref()
    }

    pub(super) fn hubs(&self) -> &Arc<Hubs> {
        &self.hubs
    }

    /// Loads the store's entry of `feed`, merges it with `known`, and publishes the result. `None` if it adds nothing.
    pub(super) async fn load(&self, feed: Feed, known: Option<&FeedEntry>) -> Option<Arc<FeedEntry>> {
        let stored = self.store.as_ref()?.load(feed).await?;
        let entry = match known {
            Some(known) => known.merged_with(&stored)?,
            None => stored,
        };
        self.publish(feed, &entry);
        Some(Arc::new(entry))
    }

    /// Turns the outcome of a lookup into a cache entry and reports it.
    pub(super) async fn finish(
        &self,
        request: &FlightRequest,
        looked_up: Result<Channel, upstream::Failure>,
        known: Option<&FeedEntry>,
    ) -> Arc<FeedEntry> {
        let outcome = looked_up.as_ref().map(|_| ()).map_err(|failure| &failure.error);
        self.hang
            .report(Source::Feed, &*self.upstream, request.feed, outcome);
        let entry = match looked_up {
            Ok(channel) => {
                self.failures.record(Ok(()), SystemTime::now());
                self.note_known_good(request.feed, true, clock::now());
                self.found(request.feed, channel, known).await
            }
            Err(failure) => {
                let failure = self.classify(request.feed, failure, known).await;
                self.failures.record(Err(&failure.error), SystemTime::now());
                match self.fall_back(request, failure, known).await {
                    Ok(channel) => self.found(request.feed, channel, known).await,
                    Err(failure) => self.failure(failure, known, clock::now()),
                }
            }
        };
        self.report(request, entry)
    }

    /// Publishes the entry that a flight ends with.
    pub(super) fn report(&self, request: &FlightRequest, entry: FeedEntry) -> Arc<FeedEntry> {
        if request.purpose == Purpose::Poll {
            self.hubs.polling.report(request.feed.channel, &entry);
        }
        self.publish(request.feed, &entry);
        Arc::new(entry)
    }

    /// Publishes an entry to the watchers of its channel, and to the status page.
    pub(super) fn publish(&self, feed: Feed, known: &FeedEntry) {
        if feed.kind.is_none() {
            if let Some(success) = &known.success {
                self.newest.add(&success.value);
            }
            self.hubs
                .publish(feed.channel, known, || self.health(feed, known));
        }
    }

    fn health(&self, feed: Feed, known: &FeedEntry) -> Health {
        match &known.failure {
            None => Health::Works,
            Some(failure) if failure.error == UpstreamError::Busy || failure.error.is_provisional() => {
                Health::Unchanged
            }
            Some(failure) => {
                let (now, error) = (clock::now(), failure.error.clone());
                let is_usable = |success: &Success<_>| success.age(now) <= self.policy.usable_for();
                let error = if known.success.as_ref().is_some_and(is_usable) {
                    self.error(error, feed, now)
                } else {
                    self.error_without_answer(error, feed, now)
                };
                let retry_at = failure.retry_at;
                Health::Fails(Problem { error, retry_at })
            }
        }
    }

    /// The entry after a snapshot of the feed. A suspect snapshot counts as a failure the first time; the second in a row is believed, unless
    /// the feed [lags](snapshot::lags).
    pub(super) async fn found(&self, feed: Feed, channel: Channel, before: Option<&FeedEntry>) -> FeedEntry {
        let now = clock::now();
        let last = before.and_then(|known| known.success.as_ref());
        if let Some(success) = last {
            let lags = snapshot::lags(&channel, success, self.policy.usable_for(), now);
            let failure = before.and_then(|known| known.failure.as_ref());
            let is_confirmed = failure.is_some_and(|failure| failure.error == UpstreamError::SuspectSnapshot);
            if lags || !is_confirmed && snapshot::is_suspect(&channel, &success.value) {
                tracing::debug!(%feed, uploads = channel.len(), "the snapshot is older than the last one, or empty: rejected");
                return self.failure(UpstreamError::SuspectSnapshot.into(), before, now);
            }
            self.fallbacks.note_vanished(&channel, &success.value);
            if feed.kind.is_none() {
                for kind in snapshot::pushed_out(&channel, &success.value) {
                    self.keep_pushed_out(kind, success).await;
                }
            }
        }
        let unlisted_since = snapshot::unlisted_since(&channel, last, now);
        CacheEntry::succeeded(Arc::new(channel), now, SystemTime::now()).with_unlisted_since(unlisted_since)
    }

    /// Makes the uploads of a kind that have left the channel's own feed the entry of the kind's feed, as a fallback if that cannot be
    /// looked up.
    async fn keep_pushed_out(&self, kind: Kind, success: &Success<Arc<Channel>>) {
        let feed = Feed {
            channel: success.value.id(),
            kind: Some(kind),
        };
        let fallback = Arc::new(CacheEntry::succeeded(
            Arc::new(success.value.only(kind)),
            success.at,
            success.time,
        ));
        self.cache
            .update(feed, |known| {
                FeedEntry::merge_into(known.map(Arc::as_ref), &fallback)
            })
            .await;
        let Some(store) = &self.store else {
            return;
        };
        let lease = match store.lease(feed).await {
            // Another replica is looking the feed up: its result will be newer.
            Lease::HeldElsewhere(_ended) => return,
            lease => lease,
        };
        let stored = store.load(feed).await;
        if let Some(merged) = FeedEntry::merge_into(stored.as_ref(), &fallback) {
            store.save(feed, &merged, lease).await;
        }
    }

    /// Tells the outage detector whether a feed was found. Only channels' own feeds count: that of a kind also vanishes when the channel
    /// deletes its last upload of the kind.
    fn note_known_good(&self, feed: Feed, found: bool, now: Instant) {
        if feed.kind.is_none() {
            self.outage.record_lookup(feed.channel, found, now);
        }
        if found && self.is_canary(feed) {
            self.outage.record_verdict(outage::Verdict::Found, now);
        }
    }

    fn is_canary(&self, feed: Feed) -> bool {
        let canary = self.canary.as_ref().map(|canary| canary.channel.into());
        canary == Some(feed)
    }

    pub(super) fn has_fallback_after(&self, error: &UpstreamError) -> bool {
        self.fallbacks.help_after(error, self.canary.is_some())
    }

    /// Asks the other sources, if they can help after this failure of the first.
    async fn fall_back(
        &self,
        request: &FlightRequest,
        failure: upstream::Failure,
        known: Option<&FeedEntry>,
    ) -> Result<Channel, upstream::Failure> {
        if !self.has_fallback_after(&failure.error) {
            return Err(failure);
        }
        let lookup = request.for_upstream(known);
        self.fallbacks.look_up(request.feed, &lookup, failure).await
    }

    /// What a failure of the first source means: a 404 can mean nothing, something of the source, or that there is no such channel.
    async fn classify(
        &self,
        feed: Feed,
        failure: upstream::Failure,
        before: Option<&FeedEntry>,
    ) -> upstream::Failure {
        if failure.error != UpstreamError::NotFound {
            return failure;
        }
        let was_found = before.is_some_and(|known| known.success.is_some());
        if was_found {
            self.note_known_good(feed, false, clock::now());
        }
        if self.is_canary(feed) {
            self.outage
                .record_verdict(outage::Verdict::NotFound, clock::now());
        }
        let error = if self.is_outage().await {
            UpstreamError::Outage
        } else if was_found {
            // Most 404s of a channel that was found before are errors of the source.
            UpstreamError::Status(404)
        } else {
            UpstreamError::NotFound
        };
        upstream::Failure { error, ..failure }
    }

    /// Whether a 404 means nothing now. Looks the canary up if that is not clear.
    async fn is_outage(&self) -> bool {
        match (self.outage.is_outage(clock::now()), &self.canary) {
            (Some(is_outage), _) => is_outage,
            (None, Some(canary)) => canary.is_outage(&self.outage, &*self.upstream).await,
            (None, None) => false,
        }
    }

    /// The entry after a failed lookup: the last success stays.
    pub(super) fn failure(
        &self,
        failure: upstream::Failure,
        before: Option<&FeedEntry>,
        now: Instant,
    ) -> FeedEntry {
        let upstream::Failure {
            error,
            retry_after,
            out_of_budget,
        } = failure;
        let success = before.and_then(|known| known.success.clone());
        let before = before.and_then(|known| known.failure.as_ref());
        let streak = Policy::streak(before, &error);
        let pause = self
            .policy
            .pause(&error, success.is_some(), streak, fastrand::f64());
        let pause = match retry_after {
            Some(retry_after) if error.is_local_condition() => retry_after,
            Some(retry_after) => pause.max(retry_after),
            None => pause,
        };
        let failure = Failure {
            error,
            at: now,
            retry_at: now + pause,
            streak,
            out_of_budget,
        };
        CacheEntry::failed(success, failure)
    }

    /// How the sources are doing, in the order in which they are asked.
    pub(super) fn sources(&self) -> Vec<SourceHealth> {
        let first = self.failures.health(Source::Feed, &*self.upstream);
        iter::once(first).chain(self.fallbacks.health()).collect()
    }

    /// How many polls per second the source has room for now. `None` means no limit.
    pub(super) fn room_for_polls(&self) -> Option<f64> {
        self.upstream.room_for_polls()
    }

    /// The number of lookups of the canary, by outcome.
    pub(super) fn canary_lookups(&self) -> [(&'static str, u64); 3] {
        let [found, not_found, error] = self.canary.as_ref().map_or([0; 3], Canary::lookups);
        [("found", found), ("not_found", not_found), ("error", error)]
    }

    /// Whether an outage is under way.
    pub(super) fn is_outage_under_way(&self, now: Instant) -> bool {
        self.outage.under_way(now)
    }

    /// A failure as the caller's error. During an outage a cached 404 counts as part of it, even if it is older.
    pub(super) fn error(&self, error: UpstreamError, feed: Feed, now: Instant) -> LookupError {
        match error {
            UpstreamError::NotFound if self.outage.under_way(now) => {
                LookupError::Upstream(UpstreamError::Outage)
            }
            // The channel itself exists, as its own feed showed.
            UpstreamError::NotFound if feed.kind.is_some() => LookupError::NoUploads {
                channel: feed.channel,
                kind: feed.kind,
            },
            UpstreamError::NotFound | UpstreamError::NoSuchChannel => {
                LookupError::ChannelNotFound(feed.channel)
            }
            error => LookupError::Upstream(error),
        }
    }

    /// The same where no usable answer is left: a 404 of a channel that was found before means that it does not exist.
    pub(super) fn error_without_answer(&self, error: UpstreamError, feed: Feed, now: Instant) -> LookupError {
        let error = match error {
            UpstreamError::Status(404) => UpstreamError::NotFound,
            error => error,
        };
        self.error(error, feed, now)
    }
}
