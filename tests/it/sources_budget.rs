//! A source with a budget: what one caller may not spend keeps nobody else from theirs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::{self, BoxFuture};
use plaque::{
    latest::{Latest, LookupError},
    store::Store,
    upstream::{Caller, Failure, Fallback, Feed, LookupRequest, Purpose, Upstream, UpstreamError},
    video::{Channel, Source},
};
use tokio::runtime::Handle;

use crate::sources::answers;
use crate::store_memory::Memory;
use crate::stores::{Fake, Kind as _, found, query, settings, soon};

/// A Data API whose budget has something left for one caller, and for no other; or for nobody.
struct Budgeted {
    api: Arc<Fake>,
    /// The caller; 0 is nobody.
    rich: AtomicU64,
}

impl Upstream for Budgeted {
    fn look_up(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        if self.has_budget(&request) {
            self.api.look_up(feed, request)
        } else {
            let out_of_budget = Failure {
                out_of_budget: true,
                ..UpstreamError::Busy.into()
            };
            Box::pin(future::ready(Err(out_of_budget)))
        }
    }

    fn has_budget(&self, request: &LookupRequest) -> bool {
        request.purpose == Purpose::Awaited && request.caller.id == self.rich.load(SeqCst)
    }

    fn time_limit(&self) -> Duration {
        self.api.time_limit()
    }
}

fn caller(id: u64) -> impl Fn() -> Caller {
    move || Caller {
        id,
        ..Caller::default()
    }
}

fn budgeted(
    feed: &Arc<Fake>,
    api: &Arc<Fake>,
    rich: u64,
    store: Option<Arc<dyn Store>>,
) -> (Arc<Latest>, Arc<Budgeted>) {
    let budgeted = Arc::new(Budgeted {
        api: Arc::clone(api),
        rich: rich.into(),
    });
    let upstream = Arc::clone(&budgeted) as Arc<dyn Upstream>;
    let source = Source::DataApi;
    let feed = Arc::clone(feed) as Arc<dyn Upstream>;
    let fallbacks = vec![Fallback { source, upstream }];
    let latest = Latest::with_fallbacks(feed, fallbacks, store, settings(), Handle::current());
    (Arc::new(latest), budgeted)
}

#[tokio::test]
async fn a_caller_without_budget_does_not_keep_others_from_theirs() {
    let test = async {
        let (feed, api) = (
            Fake::open(answers(Some(UpstreamError::Status(503)))),
            Fake::open(found),
        );
        let (latest, _) = budgeted(&feed, &api, 7, None);
        let unavailable = LookupError::Upstream(UpstreamError::Status(503));
        for _ in 0..3 {
            let poor = latest.get_for(query(), &caller(1)).await;
            assert_eq!(poor.outcome.err(), Some(unavailable.clone()));
        }
        assert_eq!(
            (feed.lookups(), api.lookups()),
            (1, 0),
            "the feed has its backoff"
        );
        let rich = latest.get_for(query(), &caller(7)).await;
        assert_eq!(rich.outcome.expect("found").channel().source(), Source::DataApi);
        assert_eq!((feed.lookups(), api.lookups()), (1, 1));
        // What one paid for is for all.
        let poor = latest.get_for(query(), &caller(1)).await;
        assert!(poor.outcome.is_ok());
        assert_eq!((feed.lookups(), api.lookups()), (1, 1));
    };
    soon(test).await;
}

#[tokio::test]
async fn who_joined_the_flight_of_a_caller_without_budget_asks_again_and_only_once() {
    let test = async {
        for works in [true, false] {
            let error = (!works).then_some(UpstreamError::Status(500));
            let (feed, api) = (
                Fake::gated(answers(Some(UpstreamError::Status(503)))),
                Fake::open(answers(error)),
            );
            let (latest, _) = budgeted(&feed, &api, 7, None);
            let (by_poor, by_rich) = (caller(1), caller(7));
            let poor = latest.get_for(query(), &by_poor);
            let rich = async {
                feed.arrival().await;
                let rich = latest.get_for(query(), &by_rich);
                let release = async {
                    while latest.waiting() < 2 {
                        tokio::task::yield_now().await;
                    }
                    feed.release();
                };
                tokio::join!(rich, release).0
            };
            let (_, rich) = tokio::join!(poor, rich);
            assert_eq!(rich.outcome.is_ok(), works);
            assert_eq!((feed.lookups(), api.lookups()), (1, 1));
            // A failure of the API is one of the channel, with its backoff.
            assert_eq!(latest.get_for(query(), &by_rich).await.outcome.is_ok(), works);
            assert_eq!((feed.lookups(), api.lookups()), (1, 1));
        }
    };
    soon(test).await;
}

#[tokio::test]
async fn budget_that_a_caller_gets_later_counts_during_the_backoff_also_at_another_replica() {
    let test = async {
        let memory = Memory::new();
        let feed = Fake::open(answers(Some(UpstreamError::Status(503))));
        let (nothing, api) = (Fake::open(found), Fake::open(found));
        let (poor, _) = budgeted(&feed, &nothing, 0, Some(memory.open().await));
        let (other, budget) = budgeted(&feed, &api, 0, Some(memory.open().await));
        for latest in [&poor, &other] {
            assert!(latest.get_for(query(), &caller(7)).await.outcome.is_err());
        }
        assert_eq!(feed.lookups(), 1, "the other replica knows of the failure");
        budget.rich.store(7, SeqCst);
        let reply = other.get_for(query(), &caller(7)).await;
        assert_eq!(reply.outcome.expect("found").channel().source(), Source::DataApi);
        assert_eq!((feed.lookups(), nothing.lookups(), api.lookups()), (1, 0, 1));
        // It is saved: also a third one has it, without a lookup.
        let (third, _) = budgeted(&feed, &nothing, 0, Some(memory.open().await));
        assert!(third.get_for(query(), &caller(1)).await.outcome.is_ok());
        assert_eq!((feed.lookups(), nothing.lookups(), api.lookups()), (1, 0, 1));
    };
    soon(test).await;
}
