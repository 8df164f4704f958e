//! All that lookups need, and what becomes of what they bring: what is kept, published, and told to the outage.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use coalesce::Coalescer;

use super::{
    Known, LookupError, Policy, Settings,
    canary::Canary,
    hub::Hubs,
    lookup::Question,
    outage::{self, Outage},
    polling::Polling,
    remote_updates::LostMessages,
    snapshot,
    timeline::{Health, Trouble},
};
use crate::{
    cache_entry::{CacheEntry, Failure, HitCount, Success},
    clock,
    store::{Lease, Store},
    upstream::{self, Feed, Purpose, Upstream, UpstreamError},
    video::{Channel, Kind},
};

/// All that is needed to look a channel up. Shared by every flight; holds nothing of any caller's.
pub(super) struct Source {
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) policy: Policy,
    /// What is known, of this feed and of others.
    cache: Coalescer<Feed, Arc<Known>>,
    outage: Outage,
    canary: Option<Canary>,
    /// What a lookup may take, with all that it waits for.
    pub(super) flight_limit: Duration,
    /// Those who watch. Every lookup that ends is published to them.
    pub(super) hubs: Arc<Hubs>,
    pub(super) lost_messages: LostMessages,
}

impl Source {
    pub(super) fn new(
        upstream: Arc<dyn Upstream>,
        store: Option<Arc<dyn Store>>,
        cache: Coalescer<Feed, Arc<Known>>,
        settings: &Settings,
        flight_limit: Duration,
    ) -> Self {
        Self {
            upstream,
            store,
            policy: settings.policy,
            cache,
            outage: Outage::new(settings.canary.is_some()),
            canary: settings.canary.map(Canary::new),
            flight_limit,
            hubs: Arc::new(Hubs::new(settings.max_watched, Polling::new(settings))),
            lost_messages: LostMessages::default(),
        }
    }

    pub(super) fn store(&self) -> Option<&dyn Store> {
        self.store.as_deref()
    }

    /// What the store has of `feed` beside what is `known`, if that is anything new.
    pub(super) async fn kept(&self, feed: Feed, known: Option<&Known>) -> Option<Arc<Known>> {
        let kept = self.store.as_ref()?.load(feed).await?;
        let kept = match known {
            Some(known) => joined(&kept, known)?,
            None => kept,
        };
        self.publish(feed, &kept);
        Some(Arc::new(kept))
    }

    /// Takes in what came of a lookup.
    pub(super) async fn ended(
        &self,
        question: &Question,
        looked_up: Result<Channel, upstream::Failure>,
        known: Option<&Known>,
    ) -> Arc<Known> {
        let entry = match looked_up {
            Ok(channel) => self.found(question.feed, channel, known).await,
            Err(failure) => self.failed(question.feed, failure, known).await,
        };
        self.note_end(question, entry)
    }

    pub(super) fn note_end(&self, question: &Question, entry: Known) -> Arc<Known> {
        if question.purpose == Purpose::Poll {
            self.hubs.polling.asked(question.feed.channel, &entry);
        }
        self.publish(question.feed, &entry);
        Arc::new(entry)
    }

    /// Publishes what is known to those who watch the channel.
    pub(super) fn publish(&self, feed: Feed, known: &Known) {
        if feed.kind.is_none() {
            self.hubs
                .publish(feed.channel, known, || self.health(feed, known));
        }
    }

    fn health(&self, feed: Feed, known: &Known) -> Health {
        match &known.failed {
            None => Health::Works,
            Some(failed) if failed.error == UpstreamError::Busy || failed.error.is_provisional() => {
                Health::Unchanged
            }
            Some(failed) => {
                let (now, error) = (clock::now(), failed.error.clone());
                let can_be_given = |good: &Success<_>| good.age(now) <= self.policy.usable_for();
                let error = if known.good.as_ref().is_some_and(can_be_given) {
                    self.refusal(error, feed, now)
                } else {
                    self.refusal_without_answer(error, feed, now)
                };
                let retry_at = failed.retry_at;
                Health::Fails(Trouble { error, retry_at })
            }
        }
    }

    /// Takes in a snapshot. One that is suspect changes nothing the first time; the second in a row is believed.
    async fn found(&self, feed: Feed, channel: Channel, before: Option<&Known>) -> Known {
        let now = clock::now();
        self.note(feed, true, now);
        if let Some(good) = before.and_then(|known| known.good.as_ref()) {
            let failed = before.and_then(|known| known.failed.as_ref());
            let is_confirmed = failed.is_some_and(|failed| failed.error == UpstreamError::SuspectSnapshot);
            if !is_confirmed && snapshot::is_suspect(&channel, &good.value) {
                tracing::debug!(%feed, uploads = channel.len(), "an older or an empty snapshot: kept back");
                return self.failure(UpstreamError::SuspectSnapshot.into(), before, now);
            }
            if feed.kind.is_none() {
                for kind in snapshot::pushed_out(&channel, &good.value) {
                    self.remember(kind, good).await;
                }
            }
        }
        CacheEntry::succeeded(Arc::new(channel), now, SystemTime::now())
    }

    /// Keeps the uploads of a kind that the channel's own feed shows no more, as what is known of the kind's feed: to be given if that
    /// cannot be looked up.
    async fn remember(&self, kind: Kind, good: &Success<Arc<Channel>>) {
        let feed = Feed {
            channel: good.value.id(),
            kind: Some(kind),
        };
        let remembered = Arc::new(CacheEntry::succeeded(
            Arc::new(good.value.only(kind)),
            good.at,
            good.time,
        ));
        self.cache
            .update(feed, |known| added(&remembered, known.map(Arc::as_ref)))
            .await;
        let Some(store) = &self.store else {
            return;
        };
        let lease = match store.lease(feed).await {
            // Somebody looks the kind up just now: what they find is newer.
            Lease::HeldElsewhere(_ended) => return,
            lease => lease,
        };
        let kept = store.load(feed).await;
        if let Some(known) = added(&remembered, kept.as_ref()) {
            store.save(feed, &known, lease).await;
        }
    }

    /// Notes that a feed that was good before is `found`, or is not. Only of channels' own feeds: that of a kind is gone when the
    /// channel has deleted the last of them.
    fn note(&self, feed: Feed, found: bool, now: Instant) {
        if feed.kind.is_none() {
            self.outage.note(feed.channel, found, now);
        }
        if found && self.is_canary(feed) {
            self.outage.settle(outage::Verdict::Found, now);
        }
    }

    fn is_canary(&self, feed: Feed) -> bool {
        let canary = self.canary.as_ref().map(|canary| canary.channel.into());
        canary == Some(feed)
    }

    async fn failed(&self, feed: Feed, failure: upstream::Failure, before: Option<&Known>) -> Known {
        if failure.error != UpstreamError::NotFound {
            return self.failure(failure, before, clock::now());
        }
        let was_found = before.is_some_and(|known| known.good.is_some());
        if was_found {
            self.note(feed, false, clock::now());
        }
        if self.is_canary(feed) {
            self.outage.settle(outage::Verdict::NotFound, clock::now());
        }
        let error = if self.settle().await {
            UpstreamError::Outage
        } else if was_found {
            // It was there. That it is gone is the last thing that this 404 says.
            UpstreamError::Status(404)
        } else {
            UpstreamError::NotFound
        };
        self.failure(upstream::Failure { error, ..failure }, before, clock::now())
    }

    /// Whether a 404 that came just now says nothing. Asks the canary if need be.
    async fn settle(&self) -> bool {
        match (self.outage.decide(clock::now()), &self.canary) {
            (Some(is_outage), _) => is_outage,
            (None, Some(canary)) => canary.settle(&self.outage, &*self.upstream).await,
            (None, None) => false,
        }
    }

    pub(super) fn failure(&self, failure: upstream::Failure, before: Option<&Known>, now: Instant) -> Known {
        let upstream::Failure { error, retry_after } = failure;
        let good = before.and_then(|known| known.good.clone());
        let before = before.and_then(|known| known.failed.as_ref());
        let streak = Policy::streak(before, &error);
        let pause = self.policy.pause(&error, good.is_some(), streak, fastrand::f64());
        let pause = match retry_after {
            Some(asked) if error.is_local_condition() => asked,
            Some(asked) => pause.max(asked),
            None => pause,
        };
        let failed = Failure {
            error,
            at: now,
            retry_at: now + pause,
            streak,
        };
        CacheEntry::failed(good, failed)
    }

    /// How many polls a second there is room for just now. `None`: as many as are wanted.
    pub(super) fn room_for_polls(&self) -> Option<f64> {
        self.upstream.room_for_polls()
    }

    /// The lookups of the canary so far, by outcome.
    pub(super) fn canary_lookups(&self) -> [(&'static str, u64); 3] {
        let [found, not_found, error] = self.canary.as_ref().map_or([0; 3], Canary::lookups);
        [("found", found), ("not_found", not_found), ("error", error)]
    }

    /// Whether a 404 says nothing at `now`.
    pub(super) fn outage(&self, now: Instant) -> bool {
        self.outage.under_way(now)
    }

    /// What a caller is told of a failure. A 404 that was remembered before the outage was noticed says no more than the others.
    pub(super) fn refusal(&self, error: UpstreamError, feed: Feed, now: Instant) -> LookupError {
        match error {
            UpstreamError::NotFound if self.outage.under_way(now) => {
                LookupError::Upstream(UpstreamError::Outage)
            }
            // The channel is known by its own feed: what is not there is anything of this kind.
            UpstreamError::NotFound if feed.kind.is_some() => LookupError::NoUploads {
                channel: feed.channel,
                kind: feed.kind,
            },
            UpstreamError::NotFound => LookupError::ChannelNotFound(feed.channel),
            error => LookupError::Upstream(error),
        }
    }

    /// The same where no answer is left that could be given: the 404 of a channel that was found before is one like any other.
    pub(super) fn refusal_without_answer(
        &self,
        error: UpstreamError,
        feed: Feed,
        now: Instant,
    ) -> LookupError {
        let error = match error {
            UpstreamError::Status(404) => UpstreamError::NotFound,
            error => error,
        };
        self.refusal(error, feed, now)
    }
}

/// What is `known`, if anything is, with what `kept` adds. `None` if that is nothing.
pub(super) fn added(kept: &Arc<Known>, known: Option<&Known>) -> Option<Arc<Known>> {
    match known {
        Some(known) => joined(kept, known).map(Arc::new),
        None => Some(Arc::clone(kept)),
    }
}

/// What is `known` with what `kept` adds: a newer answer, or a newer failure. `None` if that is nothing.
///
/// Each may have what the other lacks: who has failed may have had no answer, since the store was empty or in trouble.
fn joined(kept: &Known, known: &Known) -> Option<Known> {
    let good_at = |entry: &Known| entry.good.as_ref().map(|good| good.at);
    let has_newer_good = good_at(kept) > good_at(known);
    let has_newer_failure = kept.failed.as_ref().map(|failed| failed.at) > known.last_attempt();
    if !has_newer_good && !has_newer_failure {
        return None;
    }
    let good = if has_newer_good { &kept.good } else { &known.good };
    let failed = if has_newer_failure {
        &kept.failed
    } else {
        &known.failed
    };
    // What failed before the answer came says nothing more.
    let since = good.as_ref().map(|good| good.at);
    Some(CacheEntry {
        good: good.clone(),
        failed: failed.clone().filter(|failed| Some(failed.at) >= since),
        hits: HitCount::default(),
    })
}
