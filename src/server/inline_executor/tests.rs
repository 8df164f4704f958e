use std::{
    future::{pending, poll_fn},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;

/// Runs one time slice, in which the connection starts `calls`. Returns how often the connection was polled.
fn run_slice(calls: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>) -> usize {
    let (mut calls, mut polls) = (calls.into_iter(), 0);
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        polls += 1;
        calls.by_ref().for_each(|call| InlineExecutor.execute(call));
        Poll::Pending
    }));
    let context = &mut Context::from_waker(Waker::noop());
    let mut driver = ConnectionDriver::default();
    let start = Instant::now();
    assert!(driver.poll(connection.as_mut(), context, || start).is_pending());
    assert!(driver.pending_calls.is_empty());
    drop(connection);
    polls
}

#[tokio::test]
async fn a_call_that_waits_becomes_a_task() {
    let (tell, told) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel();
    let waits = async move {
        told.await.expect("it is told");
        end.send(()).expect("somebody waits for it");
    };
    run_slice([waits]);
    tell.send(()).expect("the call goes on");
    ended.await.expect("the call ends");
}

#[tokio::test]
async fn a_call_that_panics_fails_alone() {
    let (end, ended) = oneshot::channel();
    let calls: [Pin<Box<dyn Future<Output = ()> + Send>>; 2] = [
        Box::pin(async { panic!("a bug") }),
        Box::pin(async { end.send(()).expect("somebody waits for it") }),
    ];
    run_slice(calls);
    ended.await.expect("the other call ends");
}

/// Runs slices until `calls` calls that take `each` have run, by a clock that only they advance. Returns how long each slice took.
async fn run_slices(calls: usize, each: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let (clock, order) = (Arc::new(Mutex::new(start)), Arc::new(Mutex::new(vec![])));
    let mut new: VecDeque<_> = (0..calls).collect();
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        for number in new.drain(..) {
            let (clock, order) = (Arc::clone(&clock), Arc::clone(&order));
            InlineExecutor.execute(async move {
                *clock.lock() += each;
                order.lock().push(number);
            });
        }
        Poll::Pending
    }));
    let (mut driver, mut took) = (ConnectionDriver::default(), vec![]);
    poll_fn(|context| {
        let before = *clock.lock();
        let polled = driver.poll(connection.as_mut(), context, || *clock.lock());
        assert!(polled.is_pending());
        assert!(
            STARTED_CALLS.with_borrow(VecDeque::is_empty),
            "the next connection would run them"
        );
        took.push(*clock.lock() - before);
        // If it is not woken again, the test hangs.
        if order.lock().len() < calls {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    assert_eq!(*order.lock(), (0..calls).collect::<Vec<_>>());
    assert!(driver.pending_calls.is_empty());
    // Without the polls that yield.
    took.retain(|slice| !slice.is_zero());
    took
}

#[tokio::test]
async fn a_slice_is_bounded_by_the_time_that_its_calls_take() {
    let batches = run_slices(200, Duration::from_micros(125)).await;
    assert!(
        batches.iter().all(|slice| *slice < Duration::from_millis(1)),
        "{batches:?}"
    );
    assert!(batches.len() < 40, "{batches:?}");
    assert_eq!(run_slices(100, Duration::from_micros(3)).await.len(), 1);
    assert_eq!(run_slices(3, Duration::from_secs(1)).await.len(), 1);
}

#[tokio::test]
async fn pending_calls_come_first_in_the_next_slice() {
    let (clock, order) = (Arc::new(Mutex::new(Instant::now())), Arc::new(Mutex::new(vec![])));
    let mut numbers = 0..;
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        for number in numbers.by_ref().take(3 * CALLS_PER_CLOCK_READ) {
            let (clock, order) = (Arc::clone(&clock), Arc::clone(&order));
            InlineExecutor.execute(async move {
                *clock.lock() += TIME_SLICE;
                order.lock().push(number);
            });
        }
        Poll::Pending
    }));
    let mut driver = ConnectionDriver::default();
    let context = &mut Context::from_waker(Waker::noop());
    for _ in 0..6 {
        // Each slice starts more calls than it has time for.
        let _ = driver.poll(connection.as_mut(), context, || *clock.lock());
    }
    let order = order.lock();
    assert_eq!(*order, (0..order.len()).collect::<Vec<_>>());
    assert!(!driver.pending_calls.is_empty());
}

#[tokio::test]
async fn pending_calls_are_dropped_with_their_connection() {
    let clock = Mutex::new(Instant::now());
    let call = Arc::new(());
    let mut polls = 0;
    let mut connection = Box::pin(poll_fn(|_context| {
        polls += 1;
        if polls == 2 {
            return Poll::Ready(());
        }
        for _ in 0..100 {
            let call = Arc::clone(&call);
            InlineExecutor.execute(async move { drop(call) });
        }
        Poll::Pending
    }));
    let context = &mut Context::from_waker(Waker::noop());
    let mut driver = ConnectionDriver::default();
    let slow = || {
        *clock.lock() += TIME_SLICE;
        *clock.lock()
    };
    assert!(driver.poll(connection.as_mut(), context, slow).is_pending());
    assert!(Arc::strong_count(&call) > 1);
    // Yields.
    assert!(driver.poll(connection.as_mut(), context, slow).is_pending());
    assert!(driver.poll(connection.as_mut(), context, slow).is_ready());
    drop(driver);
    assert_eq!(Arc::strong_count(&call), 1);
    assert!(STARTED_CALLS.with_borrow(VecDeque::is_empty));
}

#[tokio::test]
async fn responses_are_sent_together() {
    assert_eq!(run_slice((0..10).map(|_| async {})), 1);
    assert_eq!(run_slice([pending()]), 1);
}
