//! What the builder's settings do, and what their defaults are.

use std::{future, sync::Arc, time::Duration};

use coalesce::{Coalescer, Error, FlightError, Overloaded, Retention};
use tokio::sync::Notify;

#[tokio::test]
async fn get_or_fetch_fetches_once_and_then_hits() {
    let cache = Coalescer::<String, u32>::new(10);
    let fetched = cache.get_or_fetch("a".into(), || future::ready(1)).await;
    assert_eq!(fetched, Ok(1));
    let hit = cache.get_or_fetch("a".into(), || future::ready(2)).await;
    assert_eq!(hit, Ok(1));
    assert_eq!(cache.get("a").await, Some(1), "a borrowed key is enough");
    assert_eq!((cache.flights_started(), cache.flight_count()), (1, 0));
}

/// A caller that missed the cache just before a value was cached finds that value, and fetches nothing.
#[tokio::test]
async fn get_or_fetch_looks_again_before_it_fetches() {
    let cache = Coalescer::<u32, u32>::new(10);
    let go = Arc::new(Notify::new());
    let first = {
        let go = Arc::clone(&go);
        cache.join(1, move |_context| async move {
            go.notified().await;
            1
        })
    };
    // Misses, and joins.
    let late = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_fetch(1, || future::ready(2)).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(cache.waiter_count(), 2);
    go.notify_one();
    assert_eq!(first.expect("there is room").outcome().await, Ok(1));
    assert_eq!(late.await.expect("it does not panic"), Ok(1));

    // A flight that starts when a value is there already.
    cache.invalidate(&1).await;
    let fetch = cache.get_or_fetch(1, || async { panic!("it is cached by now") });
    let mut fetch = Box::pin(fetch);
    assert!(futures_util::poll!(&mut fetch).is_pending(), "it has missed");
    cache.insert(1, 3).await;
    assert_eq!(fetch.await, Ok(3));
}

#[tokio::test]
async fn get_or_fetch_tells_errors_of_either_kind() {
    let cache = Coalescer::<u32, u32>::builder(10).max_waiters(0).build();
    let refused = cache.get_or_fetch(1, || future::ready(1)).await;
    assert_eq!(refused, Err(Error::Overloaded(Overloaded(0))));

    let cache = Coalescer::<u32, u32>::new(10);
    let unlucky = cache.get_or_fetch(1, || async { panic!("a bug") }).await;
    assert_eq!(unlucky, Err(Error::Flight(FlightError::Panicked)));
    assert_eq!(
        unlucky.map_err(|error| error.to_string()),
        Err("the fetch panicked".into())
    );
}

#[tokio::test]
async fn clones_share_flights_and_values() {
    let cache = Coalescer::<u32, u32>::new(10);
    let clone = cache.clone();
    let first = cache.join(1, |_context| future::ready(1)).expect("there is room");
    let second = clone.join(1, |_context| future::ready(2)).expect("there is room");
    assert!(second.collapsed());
    assert_eq!((first.outcome().await, second.outcome().await), (Ok(1), Ok(1)));
    cache.invalidate(&1).await;
    assert_eq!(clone.get(&1).await, None);
}

#[tokio::test]
async fn without_a_weigher_the_capacity_is_in_entries() {
    let cache = Coalescer::<u32, String>::new(10);
    for key in 0..100 {
        cache.insert(key, "long".repeat(100)).await;
    }
    cache.run_pending_tasks().await;
    assert_eq!((cache.entry_count(), cache.weighted_size()), (10, 10));
    assert_eq!((cache.evictions(), cache.expirations()), (90, 0));
}

#[tokio::test]
async fn a_lifetime_is_that_of_a_single_entry_and_counts_from_its_last_write() {
    let cache = Coalescer::<u32, u32>::builder(10)
        .low_priority_capacity(10)
        .retention(|key, _value| match key {
            3.. => Retention::LowPriority,
            _ => Retention::Keep,
        })
        .expire_after_write(|_key, value| (*value == 0).then_some(Duration::ZERO))
        .build();
    for key in [1, 3] {
        cache.insert(key, 0).await;
        assert_eq!(cache.get(&key).await, None, "expired at once");
        cache.insert(key + 1, 1).await;
        assert_eq!(cache.get(&(key + 1)).await, Some(1));
        // A write gives an entry the lifetime of its new value.
        cache.insert(key, 1).await;
        assert_eq!(cache.get(&key).await, Some(1));
        cache.insert(key + 1, 0).await;
        assert_eq!(cache.get(&(key + 1)).await, None);
    }
}

#[tokio::test]
async fn without_a_low_priority_capacity_such_values_are_cached_like_others() {
    let cache = Coalescer::<u32, u32>::builder(10)
        .retention(|_key, _value| Retention::LowPriority)
        .build();
    cache.insert(1, 1).await;
    assert_eq!(cache.get(&1).await, Some(1));
    cache.invalidate(&1).await;
    assert_eq!(cache.get(&1).await, None);
}

#[tokio::test]
async fn an_update_sees_the_current_value_and_may_leave_it() {
    let cache = Coalescer::<u32, u32>::new(10);
    cache
        .update(1, |current| Some(current.map_or(1, |n| n + 1)))
        .await;
    cache
        .update(1, |current| Some(current.map_or(1, |n| n + 1)))
        .await;
    cache.update(1, |_current| None).await;
    assert_eq!(cache.get(&1).await, Some(2));
    assert_eq!(cache.iter().collect::<Vec<_>>(), [(1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_flight_has_thirty_seconds_unless_it_has_no_limit() {
    let day = Duration::from_secs(86_400);
    let slow = move || async move {
        tokio::time::sleep(day).await;
        1
    };
    let cache = Coalescer::<u32, u32>::new(10);
    let limit = FlightError::TimedOut(Duration::from_secs(30));
    assert_eq!(cache.get_or_fetch(1, slow).await, Err(limit.into()));
    assert_eq!(limit.to_string(), "the fetch took longer than 30s");

    let patient = Coalescer::<u32, u32>::builder(10).flight_timeout(None).build();
    assert_eq!(patient.get_or_fetch(1, slow).await, Ok(1));
}

/// A cache in a `static` is built before there is a runtime. Without a timer, only its flights' limit has to go.
#[test]
fn flights_run_on_the_runtime_of_their_first_caller() {
    let cache = Coalescer::<u32, u32>::builder(10).flight_timeout(None).build();
    for key in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        assert_eq!(
            runtime.block_on(cache.get_or_fetch(key, || future::ready(7))),
            Ok(7)
        );
    }
    assert_eq!(cache.flights_started(), 2);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_flight_has_one_span_however_many_wait() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let cache = Coalescer::<u32, u32>::builder(10)
        .make_span_with(|parent| {
            assert_eq!(parent, None);
            MADE.fetch_add(1, Relaxed);
            tracing::Span::none()
        })
        .build();
    let waiters = [(); 10].map(|()| cache.join(1, |_context| future::ready(1)));
    for waiter in waiters {
        assert_eq!(waiter.expect("there is room").outcome().await, Ok(1));
    }
    assert_eq!(MADE.load(Relaxed), 1);
}

#[tokio::test]
async fn a_waiting_caller_takes_little_memory() {
    let cache = Coalescer::<[u8; 64], [u8; 64]>::new(10);
    let waiter = cache
        .join([0; 64], |_context| future::pending())
        .expect("there is room");
    assert!(size_of_val(&waiter) <= 16, "{}", size_of_val(&waiter));
    let outcome = waiter.outcome();
    assert!(size_of_val(&outcome) <= 88, "{}", size_of_val(&outcome));
}
