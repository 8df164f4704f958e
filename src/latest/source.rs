//! What a flight does: looks once more at what is known, asks upstream, and notes what came of it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::timeout_at;

use super::{FLIGHT_GRACE, Known, LookupError, Policy, Query, Verdict, hub::Hubs, outage::Outage};
use crate::{
    coalesce::{Asked, Entry, Failed},
    store::{Lease, Store},
    upstream::{Failure, Feed, Upstream, UpstreamError, Urgency},
};

/// All that is needed to look a channel up. Shared by every flight; holds nothing of any caller's.
pub(super) struct Source {
    upstream: Arc<dyn Upstream>,
    store: Option<Arc<dyn Store>>,
    policy: Policy,
    outage: Outage,
    /// Hear of every lookup that ends.
    pub(super) hubs: Arc<Hubs>,
}

impl Source {
    pub(super) fn new(upstream: Arc<dyn Upstream>, store: Option<Arc<dyn Store>>, policy: Policy) -> Self {
        Self {
            upstream,
            store,
            policy,
            outage: Outage::default(),
            hubs: Arc::default(),
        }
    }

    pub(super) fn store(&self) -> Option<&dyn Store> {
        self.store.as_deref()
    }

    /// The lookup of a flight that is started for `query`, by a caller who came at `asked`.
    pub(super) fn lookup(
        self: &Arc<Self>,
        query: Query,
        feed: Feed,
        urgency: Urgency,
        asked: Instant,
    ) -> impl FnOnce(Option<Arc<Known>>) -> futures_util::future::BoxFuture<'static, Arc<Known>> + Send + 'static
    {
        let source = Arc::clone(self);
        move |known| Box::pin(async move { source.look_up(query.max_age, feed, urgency, asked, known).await })
    }

    async fn look_up(
        &self,
        max_age: Option<Duration>,
        feed: Feed,
        urgency: Urgency,
        asked: Instant,
        known: Option<Arc<Known>>,
    ) -> Arc<Known> {
        let verdict = self
            .policy
            .judge(known.as_deref(), max_age, asked, Instant::now());
        if let Some(known) = &known
            && !matches!(
                verdict,
                Verdict::LookUp(_) | Verdict::Answer { refresh: true, .. }
            )
        {
            return Arc::clone(known);
        }
        let Some(store) = &self.store else {
            return self.ask(feed, urgency, known.as_deref()).await;
        };
        let mut known = known;
        let mut lease = None;
        // Others may take as long as a lookup takes at most. If one hangs, there is time left for one of our own.
        let patience = tokio::time::Instant::now() + self.upstream.time_limit() + FLIGHT_GRACE / 2;
        loop {
            if let Some(kept) = self.kept(feed, known.as_deref()).await {
                // What a caller is given at once is given at once; they will ask for what is newer behind it.
                let will_do = match self.policy.judge(Some(&kept), max_age, asked, Instant::now()) {
                    Verdict::Answer { refresh, .. } => !refresh || urgency == Urgency::Awaited,
                    Verdict::Fallback(..) | Verdict::Refuse(_) => true,
                    Verdict::LookUp(_) => false,
                };
                if will_do {
                    return kept;
                }
                known = Some(kept);
            }
            let lease = match lease.take() {
                Some(held) => Lease::Ours(held),
                None => match store.lease(feed).await {
                    // Its last holder may have saved something between our look and our lease.
                    Lease::Ours(held) => {
                        lease = Some(held);
                        continue;
                    }
                    Lease::Theirs(ended) => match timeout_at(patience, ended).await {
                        Ok(()) => continue,
                        Err(_elapsed) => Lease::Alone,
                    },
                    Lease::Alone => Lease::Alone,
                },
            };
            let found = self.ask(feed, urgency, known.as_deref()).await;
            if store.save(feed, &found, lease).await {
                return found;
            }
            // We took longer than our lease, and what another has found since is there.
            return self.kept(feed, known.as_deref()).await.unwrap_or(found);
        }
    }

    /// What the store has of `feed` beside what is `known`, if that is anything new.
    pub(super) async fn kept(&self, feed: Feed, known: Option<&Known>) -> Option<Arc<Known>> {
        let kept = self.store.as_ref()?.load(feed).await?;
        let kept = match known {
            Some(known) => joined(&kept, known)?,
            None => kept,
        };
        self.hear(feed, &kept);
        Some(Arc::new(kept))
    }

    /// Asks upstream, and notes what came of it.
    async fn ask(&self, feed: Feed, urgency: Urgency, known: Option<&Known>) -> Arc<Known> {
        let outcome = self.upstream.look_up(feed, urgency).await;
        let now = Instant::now();
        let entry = Arc::new(match outcome {
            Ok(channel) => {
                self.note(feed, true, now);
                Entry::succeeded(Arc::new(channel), now, SystemTime::now())
            }
            Err(failure) => self.failed(feed, failure, known, now),
        });
        self.hear(feed, &entry);
        entry
    }

    /// Tells who watches.
    fn hear(&self, feed: Feed, known: &Known) {
        if feed.kind.is_none() {
            self.hubs.hear(feed.channel, known);
        }
    }

    /// Notes that a feed that was good before is `found`, or is not. Only of channels' own feeds: that of a kind is gone when the
    /// channel has deleted the last of them.
    fn note(&self, feed: Feed, found: bool, now: Instant) {
        if feed.kind.is_none() {
            self.outage.note(feed.channel, found, now);
        }
    }

    fn failed(&self, feed: Feed, failure: Failure, before: Option<&Known>, now: Instant) -> Known {
        let Failure {
            mut error,
            retry_after,
        } = failure;
        let good = before.and_then(|known| known.good.clone());
        if error == UpstreamError::NotFound {
            if good.is_some() {
                self.note(feed, false, now);
                // It was there. That it is gone is the last thing that this 404 says.
                error = UpstreamError::Status(404);
            }
            if self.outage.under_way(now) {
                error = UpstreamError::Outage;
            }
        }
        let before = before.and_then(|known| known.failed.as_ref());
        let streak = Policy::streak(before, &error);
        let pause = self.policy.pause(&error, good.is_some(), streak, fastrand::f64());
        let pause = match retry_after {
            Some(asked) if error.is_local_condition() => asked,
            Some(asked) => pause.max(asked),
            None => pause,
        };
        let failed = Failed {
            error,
            at: now,
            retry_at: now + pause,
            streak,
        };
        Entry::failed(good, failed)
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
}

/// What is `known` with what `kept` adds: a newer answer, or a newer failure. `None` if that is nothing.
///
/// Each may have what the other lacks: who has failed may have had no answer, since the store was empty or in trouble.
pub(super) fn joined(kept: &Known, known: &Known) -> Option<Known> {
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
    Some(Entry {
        good: good.clone(),
        failed: failed.clone().filter(|failed| Some(failed.at) >= since),
        asked: Asked::default(),
    })
}
