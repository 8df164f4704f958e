use std::{
    future::{pending, poll_fn},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;

/// A connection's turn in which it begins `calls`. Returns how often it was polled.
fn turn(calls: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>) -> usize {
    let (mut calls, mut polls) = (calls.into_iter(), 0);
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        polls += 1;
        calls.by_ref().for_each(|call| Begun.execute(call));
        Poll::Pending
    }));
    let context = &mut Context::from_waker(Waker::noop());
    let mut turns = Turns::default();
    let begun = Instant::now();
    assert!(turns.poll(connection.as_mut(), context, || begun).is_pending());
    assert!(turns.left.is_empty());
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
    turn([waits]);
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
    turn(calls);
    ended.await.expect("the other call ends");
}

/// Turns until each of `calls` calls, which take `each`, has run: how long they took by a clock that nothing else moves.
async fn turns(calls: usize, each: Duration) -> Vec<Duration> {
    let begun = Instant::now();
    let (clock, order) = (Arc::new(Mutex::new(begun)), Arc::new(Mutex::new(vec![])));
    let mut new: VecDeque<_> = (0..calls).collect();
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        for number in new.drain(..) {
            let (clock, order) = (Arc::clone(&clock), Arc::clone(&order));
            Begun.execute(async move {
                *clock.lock() += each;
                order.lock().push(number);
            });
        }
        Poll::Pending
    }));
    let (mut turns, mut took) = (Turns::default(), vec![]);
    poll_fn(|context| {
        let before = *clock.lock();
        let polled = turns.poll(connection.as_mut(), context, || *clock.lock());
        assert!(polled.is_pending());
        assert!(
            BEGUN.with_borrow(VecDeque::is_empty),
            "another connection's turn would have them"
        );
        took.push(*clock.lock() - before);
        // Not woken again, it would wait for ever.
        if order.lock().len() < calls {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    assert_eq!(*order.lock(), (0..calls).collect::<Vec<_>>());
    assert!(turns.left.is_empty());
    // Without the rests between them.
    took.retain(|turn| !turn.is_zero());
    took
}

#[tokio::test]
async fn a_turn_is_bounded_by_the_time_that_its_calls_take() {
    let batches = turns(200, Duration::from_micros(125)).await;
    assert!(
        batches.iter().all(|turn| *turn < Duration::from_millis(1)),
        "{batches:?}"
    );
    assert!(batches.len() < 40, "{batches:?}");
    assert_eq!(turns(100, Duration::from_micros(3)).await.len(), 1);
    assert_eq!(turns(3, Duration::from_secs(1)).await.len(), 1);
}

#[tokio::test]
async fn what_a_turn_has_left_comes_first_in_the_next() {
    let (clock, order) = (Arc::new(Mutex::new(Instant::now())), Arc::new(Mutex::new(vec![])));
    let mut numbers = 0..;
    let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
        for number in numbers.by_ref().take(3 * CALLS_BETWEEN_LOOKS) {
            let (clock, order) = (Arc::clone(&clock), Arc::clone(&order));
            Begun.execute(async move {
                *clock.lock() += LONGEST_TURN;
                order.lock().push(number);
            });
        }
        Poll::Pending
    }));
    let mut turns = Turns::default();
    let context = &mut Context::from_waker(Waker::noop());
    for _ in 0..6 {
        // Each turn brings more calls than it has time for.
        let _ = turns.poll(connection.as_mut(), context, || *clock.lock());
    }
    let order = order.lock();
    assert_eq!(*order, (0..order.len()).collect::<Vec<_>>());
    assert!(!turns.left.is_empty());
}

#[tokio::test]
async fn calls_that_are_left_end_with_their_connection() {
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
            Begun.execute(async move { drop(call) });
        }
        Poll::Pending
    }));
    let context = &mut Context::from_waker(Waker::noop());
    let mut turns = Turns::default();
    let slow = || {
        *clock.lock() += LONGEST_TURN;
        *clock.lock()
    };
    assert!(turns.poll(connection.as_mut(), context, slow).is_pending());
    assert!(Arc::strong_count(&call) > 1);
    // A rest.
    assert!(turns.poll(connection.as_mut(), context, slow).is_pending());
    assert!(turns.poll(connection.as_mut(), context, slow).is_ready());
    drop(turns);
    assert_eq!(Arc::strong_count(&call), 1);
    assert!(BEGUN.with_borrow(VecDeque::is_empty));
}

#[tokio::test]
async fn answers_are_sent_together() {
    assert_eq!(turn((0..10).map(|_| async {})), 1);
    assert_eq!(turn([pending()]), 1);
}
