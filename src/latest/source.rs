//! What a flight does: looks once more at what is known, asks upstream, and notes what came of it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{Known, LookupError, Policy, Query, Verdict, hub::Hubs, outage::Outage};
use crate::{
    coalesce::{Entry, Failed},
    upstream::{Upstream, UpstreamError},
    video::ChannelId,
};

/// All that is needed to look a channel up. Shared by every flight; holds nothing of any caller's.
pub(super) struct Source {
    upstream: Arc<dyn Upstream>,
    policy: Policy,
    outage: Outage,
    /// Hear of every lookup that ends.
    pub(super) hubs: Arc<Hubs>,
}

impl Source {
    pub(super) fn new(upstream: Arc<dyn Upstream>, policy: Policy) -> Self {
        Self {
            upstream,
            policy,
            outage: Outage::default(),
            hubs: Arc::default(),
        }
    }

    /// The lookup of a flight that is started for `query`, by a caller who came at `asked`.
    pub(super) fn lookup(
        self: &Arc<Self>,
        query: Query,
        asked: Instant,
    ) -> impl FnOnce(Option<Arc<Known>>) -> futures_util::future::BoxFuture<'static, Arc<Known>> + Send + 'static
    {
        let source = Arc::clone(self);
        move |known| Box::pin(async move { source.look_up(query, asked, known).await })
    }

    async fn look_up(&self, query: Query, asked: Instant, known: Option<Arc<Known>>) -> Arc<Known> {
        let verdict = self
            .policy
            .judge(known.as_deref(), query.max_age, asked, Instant::now());
        let needed = matches!(
            verdict,
            Verdict::LookUp(_) | Verdict::Answer { refresh: true, .. }
        );
        if let Some(known) = &known
            && !needed
        {
            return Arc::clone(known);
        }
        let outcome = self.upstream.look_up(query.channel).await;
        let now = Instant::now();
        let entry = Arc::new(match outcome {
            Ok(channel) => {
                self.outage.note(query.channel, true, now);
                Entry::succeeded(Arc::new(channel), now, SystemTime::now())
            }
            Err(error) => self.failed(query.channel, error, known.as_deref(), now),
        });
        self.hubs.hear(query.channel, &entry);
        entry
    }

    fn failed(
        &self,
        channel: ChannelId,
        mut error: UpstreamError,
        before: Option<&Known>,
        now: Instant,
    ) -> Known {
        let good = before.and_then(|known| known.good.clone());
        if error == UpstreamError::NotFound {
            if good.is_some() {
                self.outage.note(channel, false, now);
                // It was there. That it is gone is the last thing that this 404 says.
                error = UpstreamError::Status(404);
            }
            if self.outage.under_way(now) {
                error = UpstreamError::Outage;
            }
        }
        let streak = Policy::streak(before.and_then(|known| known.failed.as_ref()), &error);
        let pause = self.policy.pause(&error, good.is_some(), streak, fastrand::f64());
        let failed = Failed {
            error,
            at: now,
            retry_at: now + pause,
            streak,
        };
        Entry::failed(good, failed)
    }

    /// What a caller is told of a failure. A 404 that was remembered before the outage was noticed says no more than the others.
    pub(super) fn refusal(&self, error: UpstreamError, channel: ChannelId, now: Instant) -> LookupError {
        match error {
            UpstreamError::NotFound if self.outage.under_way(now) => {
                LookupError::Upstream(UpstreamError::Outage)
            }
            UpstreamError::NotFound => LookupError::ChannelNotFound(channel),
            error => LookupError::Upstream(error),
        }
    }
}
