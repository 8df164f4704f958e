//! Which callers wait, which get the outcome, and what is left behind.

use std::{
    future::{self, Future},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use coalesce::{Coalescer, FetchContext, FlightError, Overloaded, Retention, Waiter};
use tokio::{
    runtime::{self, Handle},
    sync::Notify,
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(300);

fn coalescer(limit: Duration, runtime: Handle) -> Coalescer<u32, u32> {
    Coalescer::builder(1 << 20)
        .flight_timeout(limit)
        .runtime(runtime)
        .build()
}

/// A source that counts fetches and answers when it is released.
#[derive(Clone, Default)]
struct Source {
    lookups: Arc<AtomicUsize>,
    go: Arc<Notify>,
}

impl Source {
    fn lookup(&self) -> impl Future<Output = u32> + Send + use<> {
        let source = self.clone();
        async move {
            let number = source.lookups.fetch_add(1, SeqCst) + 1;
            source.go.notified().await;
            u32::try_from(number).expect("few lookups")
        }
    }

    fn lookups(&self) -> usize {
        self.lookups.load(SeqCst)
    }
}

fn join(coalescer: &Coalescer<u32, u32>, source: &Source) -> Waiter<u32> {
    let source = source.clone();
    fly(coalescer, 1, move |_context| source.lookup())
}

fn fly<F, Fut>(coalescer: &Coalescer<u32, u32>, key: u32, lookup: F) -> Waiter<u32>
where
    F: FnOnce(FetchContext<u32, u32>) -> Fut + Send + 'static,
    Fut: Future<Output = u32> + Send + 'static,
{
    coalescer.join(key, lookup).expect("there is room")
}

/// A lookup that waits for a turn which never comes, and gives up when all its callers have left.
fn queued(coalescer: &Coalescer<u32, u32>, outcome: u32) -> Waiter<u32> {
    fly(coalescer, 1, move |context| async move {
        context.waiters.all_left().await;
        outcome
    })
}

#[tokio::test]
async fn a_fetch_can_find_out_that_all_callers_have_left_and_then_cannot_be_joined() {
    let coalescer = coalescer(LONG, Handle::current());
    let (first, second) = (queued(&coalescer, 1), queued(&coalescer, 2));
    assert!(!first.collapsed() && second.collapsed());
    tokio::task::yield_now().await;
    drop(first);
    tokio::task::yield_now().await;
    assert_eq!(
        (coalescer.flight_count(), coalescer.waiter_count()),
        (1, 1),
        "one waits still"
    );
    drop(second);
    while coalescer.flight_count() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(coalescer.get(&1).await, None, "it had no waiters");
    let next = fly(&coalescer, 1, |_context| future::ready(3));
    assert!(!next.collapsed());
    assert_eq!(next.outcome().await, Ok(3));
}

#[tokio::test]
async fn low_priority_values_evict_only_each_other() {
    let coalescer = Coalescer::<u32, u32>::builder(1000)
        .low_priority_capacity(10)
        .retention(|_key, value| match value {
            0 => Retention::LowPriority,
            1 => Retention::Discard,
            _ => Retention::Keep,
        })
        .build();
    let find = async |key, value| {
        let found = fly(&coalescer, key, move |_context| future::ready(value));
        assert_eq!(found.outcome().await, Ok(value));
    };
    for key in 0..1000 {
        find(key, 2).await;
    }
    for key in 1000..11_000 {
        find(key, 0).await;
    }
    coalescer.run_pending_tasks().await;
    for key in 0..1000 {
        assert_eq!(coalescer.get(&key).await, Some(2), "{key}");
    }
    assert!(
        (1001..=1010).contains(&coalescer.entry_count()),
        "{}",
        coalescer.entry_count()
    );
    // What is discarded changes nothing; a value that is kept is not of low priority any more, and of low priority once
    // more when that is gone.
    let last = coalescer
        .iter()
        .map(|(key, _)| key)
        .max()
        .expect("some are known");
    find(last, 1).await;
    assert_eq!(coalescer.get(&last).await, Some(0));
    find(last, 3).await;
    assert_eq!(coalescer.get(&last).await, Some(3));
    coalescer.run_pending_tasks().await;
    assert_eq!(coalescer.iter().filter(|(key, _)| *key == last).count(), 1);
    coalescer.invalidate(&last).await;
    assert_eq!(coalescer.get(&last).await, None);
    find(last, 0).await;
    coalescer.invalidate(&last).await;
    assert_eq!(coalescer.get(&last).await, None);
}

#[tokio::test]
async fn concurrent_callers_share_one_fetch() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    let waiters: Vec<_> = (0..1000).map(|_| join(&coalescer, &source)).collect();
    let collapsed = waiters.iter().filter(|w| w.collapsed()).count();
    assert_eq!(collapsed, 999, "all but the one that started it");
    assert_eq!(coalescer.flight_count(), 1);

    source.go.notify_one();
    for waiter in waiters {
        assert_eq!(waiter.outcome().await, Ok(1));
    }
    assert_eq!((source.lookups(), coalescer.flight_count()), (1, 0));
    assert_eq!(coalescer.get(&1).await, Some(1));
}

#[tokio::test]
async fn a_cancelled_leader_does_not_restart_the_lookup() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    let leader = join(&coalescer, &source);
    let follower = join(&coalescer, &source);
    drop(leader);
    source.go.notify_one();
    assert_eq!(follower.outcome().await, Ok(1));
    assert_eq!((source.lookups(), coalescer.flight_count()), (1, 0));
}

#[tokio::test]
async fn a_lookup_outlives_all_its_callers_and_a_newcomer_joins_it() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    for _ in 0..100 {
        drop(join(&coalescer, &source));
    }
    let newcomer = join(&coalescer, &source);
    assert!(newcomer.collapsed());
    source.go.notify_one();
    assert_eq!(newcomer.outcome().await, Ok(1));
    assert_eq!((source.lookups(), coalescer.flight_count()), (1, 0));
}

#[tokio::test]
async fn a_caller_that_leaves_in_mid_wait_changes_nothing() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    let patient = join(&coalescer, &source);
    let impatient = tokio::spawn(join(&coalescer, &source).outcome());
    tokio::task::yield_now().await; // it waits now
    impatient.abort();
    assert!(impatient.await.expect_err("aborted").is_cancelled());
    source.go.notify_one();
    assert_eq!(patient.outcome().await, Ok(1));
    assert_eq!((source.lookups(), coalescer.flight_count()), (1, 0));
}

#[tokio::test]
async fn a_panic_reaches_every_waiter_once_and_the_next_caller_starts_anew() {
    let coalescer = coalescer(LONG, Handle::current());
    let go = Arc::new(Notify::new());
    let panicking = |go: Arc<Notify>| {
        move |_context| async move {
            go.notified().await;
            panic!("a bug in the lookup");
        }
    };
    let waiters: Vec<_> = (0..251)
        .map(|_| fly(&coalescer, 1, panicking(Arc::clone(&go))))
        .collect();
    go.notify_one();
    for waiter in waiters {
        assert_eq!(waiter.outcome().await, Err(FlightError::Panicked));
    }
    assert_eq!(coalescer.flight_count(), 0);
    assert_eq!(coalescer.get(&1).await, None);

    let next = fly(&coalescer, 1, |_context| future::ready(7));
    assert!(!next.collapsed());
    assert_eq!(next.outcome().await, Ok(7));
}

#[tokio::test]
async fn a_panic_before_the_first_await_reaches_waiters() {
    let coalescer = coalescer(LONG, Handle::current());
    let waiter = fly(&coalescer, 1, |_context| -> future::Ready<u32> {
        panic!("a bug, at once")
    });
    assert_eq!(waiter.outcome().await, Err(FlightError::Panicked));
    // Neither the map's lock nor moka's gate for this key is the worse for it.
    let next = fly(&coalescer, 1, |_context| future::ready(7));
    assert_eq!(next.outcome().await, Ok(7));
    assert_eq!(coalescer.flight_count(), 0);
}

#[tokio::test]
async fn a_panic_while_a_value_is_cached_reaches_waiters_and_leaves_the_key_usable() {
    let weigh = |_key: &u32, value: &u32| {
        assert_ne!(*value, 13, "a bug in the weigher");
        1
    };
    let coalescer = Coalescer::builder(1 << 20).weigher(weigh).build();
    let unlucky = fly(&coalescer, 1, |_context| future::ready(13));
    assert_eq!(unlucky.outcome().await, Err(FlightError::Panicked));
    let next = fly(&coalescer, 1, |_context| future::ready(1));
    assert_eq!(next.outcome().await, Ok(1));
    assert_eq!(coalescer.get(&1).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_hangs_is_given_up_at_the_limit() {
    let limit = Duration::from_secs(10);
    let coalescer = coalescer(limit, Handle::current());
    let start = tokio::time::Instant::now();
    let waiters: Vec<_> = (0..10)
        .map(|_| fly(&coalescer, 1, |_context| future::pending()))
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.outcome().await, Err(FlightError::TimedOut(limit)));
    }
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(coalescer.flight_count(), 0);
    // The gate is free again.
    let next = fly(&coalescer, 1, |_context| future::ready(7));
    assert_eq!(next.outcome().await, Ok(7));
}

#[tokio::test]
async fn a_runtime_that_shuts_down_ends_the_wait() {
    let upstream = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime");
    let coalescer = coalescer(LONG, upstream.handle().clone());
    let waiters: Vec<_> = (0..3)
        .map(|_| fly(&coalescer, 1, |_context| future::pending()))
        .collect();
    upstream.shutdown_background();
    for waiter in waiters {
        assert_eq!(waiter.outcome().await, Err(FlightError::Aborted));
    }
    assert_eq!(coalescer.flight_count(), 0);
    // Nor does a flight that cannot even start leave anything.
    let late = fly(&coalescer, 1, |_context| future::ready(7));
    assert_eq!(late.outcome().await, Err(FlightError::Aborted));
    assert_eq!(coalescer.flight_count(), 0);
}

#[tokio::test]
async fn a_lookup_sees_what_the_one_before_it_has_written() {
    let coalescer = coalescer(LONG, Handle::current());
    let count = |context: FetchContext<u32, u32>| future::ready(context.cached.map_or(1, |n| n + 1));
    assert_eq!(fly(&coalescer, 1, count).outcome().await, Ok(1));
    assert_eq!(fly(&coalescer, 1, count).outcome().await, Ok(2));
    assert_eq!(coalescer.get(&1).await, Some(2));
}

#[tokio::test]
async fn keys_do_not_wait_for_each_other() {
    let coalescer = coalescer(LONG, Handle::current());
    let hanging = fly(&coalescer, 0, |_context| future::pending());
    for key in 1..=1000 {
        let waiter = fly(&coalescer, key, move |_context| future::ready(key));
        assert!(!waiter.collapsed());
        assert_eq!(waiter.outcome().await, Ok(key));
    }
    assert_eq!(coalescer.flight_count(), 1);
    drop(hanging);
}

#[tokio::test]
async fn one_caller_too_many_is_refused_at_once_and_does_not_affect_others() {
    let coalescer = Coalescer::builder(1 << 20).max_waiters(10).build();
    let source = Source::default();
    let mut waiters: Vec<_> = (0..10).map(|_| join(&coalescer, &source)).collect();
    assert_eq!(coalescer.waiter_count(), 10);
    for key in [1, 2] {
        let refused = coalescer.join(key, |_context| future::ready(7));
        assert_eq!(refused.err(), Some(Overloaded(10)));
    }
    assert_eq!(coalescer.flight_count(), 1, "a refused caller starts nothing");

    drop(waiters.pop());
    waiters.push(join(&coalescer, &source));
    source.go.notify_one();
    for waiter in waiters {
        assert_eq!(waiter.outcome().await, Ok(1));
    }
    assert_eq!((coalescer.waiter_count(), coalescer.flight_count()), (0, 0));
}

#[tokio::test]
async fn a_late_result_does_not_replace_a_newer_one() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    let late = join(&coalescer, &source);
    coalescer.update(1, |_| Some(99)).await;
    source.go.notify_one();
    assert_eq!(late.outcome().await, Ok(99), "and its waiters get the newer one");
    assert_eq!(coalescer.get(&1).await, Some(99));
    assert_eq!(
        fly(&coalescer, 1, |_context| future::ready(5)).outcome().await,
        Ok(5)
    );
    assert_eq!(coalescer.get(&1).await, Some(5), "a later flight is newer still");
}

#[tokio::test]
async fn an_invalidation_is_not_undone_by_a_flight_in_the_air() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    coalescer.update(1, |_| Some(99)).await;
    let before = join(&coalescer, &source);
    coalescer.invalidate(&1).await;
    assert_eq!(coalescer.get(&1).await, None);

    // A later caller gets a fetch that has started later.
    let after = fly(&coalescer, 1, |context| {
        future::ready(context.cached.unwrap_or(7))
    });
    assert!(!after.collapsed());
    assert_eq!(after.outcome().await, Ok(7));

    source.go.notify_one();
    assert_eq!(before.outcome().await, Ok(7), "the newer one is known by now");
    assert_eq!(coalescer.get(&1).await, Some(7));
    assert_eq!(coalescer.flight_count(), 0);
}

#[tokio::test]
async fn a_refresh_waits_for_nothing_and_is_one_among_many() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    for _ in 0..100 {
        let source = source.clone();
        coalescer.refresh(1, move |_context| source.lookup());
    }
    assert_eq!((coalescer.flight_count(), coalescer.waiter_count()), (1, 0));
    let waiter = join(&coalescer, &source);
    assert!(waiter.collapsed());
    source.go.notify_one();
    assert_eq!(waiter.outcome().await, Ok(1));
    assert_eq!((source.lookups(), coalescer.flight_count()), (1, 0));
}

#[tokio::test]
async fn keys_whose_callers_all_left_leave_nothing() {
    let (coalescer, source) = (coalescer(LONG, Handle::current()), Source::default());
    for key in 0..20_000 {
        let source = source.clone();
        drop(fly(&coalescer, key, move |_context| source.lookup()));
    }
    assert_eq!((coalescer.flight_count(), coalescer.waiter_count()), (20_000, 0));
    tokio::task::yield_now().await; // every flight waits at the gate now
    source.go.notify_waiters();
    while coalescer.flight_count() > 0 {
        tokio::task::yield_now().await;
        source.go.notify_waiters();
    }
    assert_eq!(source.lookups(), 20_000);
}
