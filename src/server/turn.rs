//! A connection's turn: it is polled, and then the calls that it has begun, which end where they would never end.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

thread_local! {
    /// The calls that the connection has begun whose turn it is.
    static BEGUN: RefCell<VecDeque<Pin<Box<dyn Future<Output = ()> + Send>>>> =
        const { RefCell::new(VecDeque::new()) };

    /// How long the answer may take that has begun in the call that is being polled.
    static ANSWERED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Says of the call that is being polled that its answer begins, and has to be sent within `limit`.
pub(super) fn answer_begins(limit: Option<Duration>) {
    ANSWERED.set(limit);
}

/// Polls a connection, and then the calls that it has begun.
///
/// Most of those are hits, which end at once: none of them needs a task, and all answers to what one read has brought are there
/// when the connection, which they wake, is next polled and sends them in one write. A call that has to wait becomes a task.
///
/// If a worker has no connection but this, its peer waits for it and it waits for the peer. So it sends a part of the answers while
/// it makes the others: with 1 connection of 10 calls there are 1.6 times as many calls a second for that.
pub(super) fn poll_connection<C: Future>(
    mut connection: Pin<&mut C>,
    context: &mut Context<'_>,
    alone: bool,
) -> Poll<C::Output> {
    let mut ended = connection.as_mut().poll(context);
    let part = if alone {
        (BEGUN.with_borrow(VecDeque::len) / 4).max(2)
    } else {
        usize::MAX
    };
    let mut polled = 0;
    while let Some(mut call) = BEGUN.with_borrow_mut(VecDeque::pop_front) {
        // Not to be woken: the task polls it once more.
        let unwoken = &mut Context::from_waker(Waker::noop());
        if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(unwoken))) {
            tokio::spawn(call);
        }
        polled += 1;
        if polled % part == 0 && ended.is_pending() {
            ended = connection.as_mut().poll(context);
        }
    }
    ended
}

/// Keeps a connection's calls for [`poll_connection`]. One whose peer does not take the answer in time is reset.
///
/// hyper asks a body for no more before the peer has room for what there is. A body can therefore not tell that its peer does
/// not read; the task that drives it can.
#[derive(Clone, Debug)]
pub(super) struct Begun;

impl<F> Executor<F> for Begun
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        BEGUN.with_borrow_mut(|begun| begun.push_back(Box::pin(Sending { call, limit: None })));
    }
}

pin_project! {
    struct Sending<F> {
        #[pin]
        call: F,
        // Made when the answer cannot be sent at once. Most can.
        #[pin]
        limit: Option<Sleep>,
    }
}

impl<F: Future<Output = ()>> Future for Sending<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        ANSWERED.set(None);
        let sent = this.call.poll(context);
        let answered = ANSWERED.take();
        if sent.is_ready() {
            return Poll::Ready(());
        }
        if let Some(limit) = answered {
            this.limit.set(Some(tokio::time::sleep(limit)));
        }
        match this.limit.as_pin_mut() {
            Some(limit) => limit.poll(context),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::sync::oneshot;

    use super::*;

    /// A connection's turn in which it begins `calls`. Returns how often it was polled.
    fn turn(
        calls: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>,
        alone: bool,
    ) -> usize {
        let (mut calls, mut polls) = (calls.into_iter(), 0);
        let mut connection = Box::pin(poll_fn(|_context| -> Poll<()> {
            polls += 1;
            calls.by_ref().for_each(|call| Begun.execute(call));
            Poll::Pending
        }));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(poll_connection(connection.as_mut(), context, alone).is_pending());
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
        turn([waits], false);
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
        turn(calls, false);
        ended.await.expect("the other call ends");
    }

    #[tokio::test]
    async fn answers_are_sent_together_unless_the_peer_has_the_worker_for_itself() {
        let answers = || (0..10).map(|_| async {});
        assert_eq!(turn(answers(), false), 1);
        assert_eq!(turn(answers(), true), 1 + 5);
        assert_eq!(turn([pending()], true), 1);
    }
}
