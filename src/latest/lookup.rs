//! One flight: looks once more at what is known, waits for its turn and for the lease, and asks.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use coalesce::FetchContext;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, pending},
};
use tokio::time::{timeout, timeout_at};

use super::{FLIGHT_GRACE, Known, Verdict, source::Source};
use crate::{
    clock,
    store::Lease,
    upstream::{Caller, Feed, LookupRequest, Purpose, UpstreamError},
};

/// What a flight is started for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) feed: Feed,
    /// The greatest age that will do; by default what the policy calls fresh.
    pub(super) max_age: Option<Duration>,
    pub(super) purpose: Purpose,
    pub(super) caller: Caller,
}

impl Question {
    /// What the upstream's queue has to know of the lookup.
    fn request(&self, known: Option<&Known>) -> LookupRequest {
        LookupRequest {
            purpose: self.purpose,
            // A feed of a kind is asked for only where the channel's own has been found.
            found_before: self.feed.kind.is_some() || known.is_some_and(|known| known.good.is_some()),
            caller: self.caller,
        }
    }
}

impl Source {
    /// The lookup of a flight that is started for `question`, by a caller who came at `asked`.
    pub(super) fn lookup(
        self: &Arc<Self>,
        question: Question,
        asked: Instant,
    ) -> impl FnOnce(FetchContext<Feed, Arc<Known>>) -> BoxFuture<'static, Arc<Known>> + Send + 'static {
        let source = Arc::clone(self);
        move |FetchContext {
                  cached: known,
                  waiters,
                  ..
              }| {
            Box::pin(async move {
                let unwanted = async {
                    match question.purpose {
                        Purpose::Awaited => waiters.all_left().await,
                        // Nobody has to wait for these.
                        Purpose::Refresh | Purpose::Poll => pending().await,
                    }
                };
                let looked_up = source.look_up(question, asked, known.clone(), unwanted);
                let looked_up = AssertUnwindSafe(timeout(source.flight_limit, looked_up));
                let error = match looked_up.catch_unwind().await {
                    Ok(Ok(known)) => return known,
                    Ok(Err(_elapsed)) => UpstreamError::TimedOut(source.flight_limit),
                    Err(_panic) => UpstreamError::Panicked,
                };
                // A failure like any other: the next callers do not start it again at once.
                let entry = source.failure(error.into(), known.as_deref(), clock::now());
                source.note_end(&question, entry)
            })
        }
    }

    /// Looks up, unless what is known by then will do, or all callers have left (`unwanted`) before it is their turn.
    async fn look_up(
        &self,
        question: Question,
        asked: Instant,
        mut known: Option<Arc<Known>>,
        unwanted: impl Future<Output = ()>,
    ) -> Arc<Known> {
        let feed = question.feed;
        let mut unwanted = pin!(unwanted);
        if let Some(known) = known.take_if(|known| self.will_do(known, &question, asked, false)) {
            return known;
        }
        // Others may take as long as a lookup takes at most. If one hangs, there is time left for one of our own.
        let patience = tokio::time::Instant::now() + self.upstream.time_limit() + FLIGHT_GRACE / 2;
        let mut is_patient = true;
        loop {
            if let Some(kept) = self.kept(feed, known.as_deref()).await {
                if self.will_do(&kept, &question, asked, true) {
                    return kept;
                }
                known = Some(kept);
            }
            let request = question.request(known.as_deref());
            let turn = tokio::select! {
                biased;
                () = &mut unwanted => return self.without_turn(known.as_deref()),
                turn = self.upstream.admit(feed, request) => turn,
            };
            let lookup = match turn {
                Ok(lookup) => lookup,
                Err(failure) => return self.ended(&question, Err(failure), known.as_deref()).await,
            };
            let Some(store) = &self.store else {
                return self.ended(&question, lookup.await, known.as_deref()).await;
            };
            // Not while it waited for its turn: nobody else has to wait for our queue.
            let lease = if is_patient {
                store.lease(feed).await
            } else {
                Lease::Uncoordinated
            };
            match lease {
                Lease::HeldElsewhere(ended) => {
                    // Gives the turn back.
                    drop(lookup);
                    is_patient = timeout_at(patience, ended).await.is_ok();
                    continue;
                }
                // Its last holder may have saved something between our look and our lease.
                Lease::Acquired(_) => {
                    if let Some(kept) = self.kept(feed, known.as_deref()).await {
                        if self.will_do(&kept, &question, asked, true) {
                            return kept;
                        }
                        known = Some(kept);
                    }
                }
                Lease::Uncoordinated => {}
            }
            let found = self.ended(&question, lookup.await, known.as_deref()).await;
            if store.save(feed, &found, lease).await {
                return found;
            }
            // We took longer than our lease, and what another has found since is there.
            return self.kept(feed, known.as_deref()).await.unwrap_or(found);
        }
    }

    /// Whether what is `known` makes the lookup for `question` needless. What a caller is given at once is given at once if it is
    /// `from_store`: they will ask for what is newer behind it.
    fn will_do(&self, known: &Known, question: &Question, asked: Instant, from_store: bool) -> bool {
        match self
            .policy
            .judge(Some(known), question.max_age, asked, clock::now())
        {
            Verdict::Answer { refresh, .. } => !refresh || from_store && question.purpose == Purpose::Awaited,
            Verdict::Fallback(..) | Verdict::Refuse(_) => true,
            Verdict::LookUp(_) => false,
        }
    }

    /// Tells the upstream that one more caller waits for a lookup, which may be in its queue.
    pub(super) fn joined(&self, question: &Question, known: Option<&Known>) {
        let request = question.request(known);
        self.upstream.joined(question.feed, request);
    }

    /// The entry of a lookup that did not get its turn, for nobody. It is not kept.
    fn without_turn(&self, known: Option<&Known>) -> Arc<Known> {
        Arc::new(self.failure(UpstreamError::Busy.into(), known, clock::now()))
    }
}
