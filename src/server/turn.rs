//! A connection's turn: it is polled, and then the calls that it has begun, for as long as others can wait; and an answer that its peer
//! does not take is given up.

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use hyper::rt::{Executor, Sleep as HyperSleep, Timer};
use hyper_util::rt::TokioTimer;
use pin_project_lite::pin_project;
use tokio::{
    task::{coop::has_budget_remaining, yield_now},
    time::Sleep,
};

type BegunCall = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The calls that the connection has begun whose turn it is.
    static BEGUN: RefCell<VecDeque<BegunCall>> = const { RefCell::new(VecDeque::new()) };

    /// How long the answer may take that has begun in the call that is being polled.
    static ANSWERED: Cell<Option<Duration>> = const { Cell::new(None) };

    /// When the turn began that this thread is in.
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Says of the call that is being polled that its answer begins, and has to be sent within `limit`.
pub(super) fn answer_begins(limit: Option<Duration>) {
    ANSWERED.set(limit);
}

/// How long a turn may take. Further calls wait until the worker's other connections have had theirs: 200 batches of 100 hits would keep
/// those waiting for 25 ms. 100 hits take 0.3 ms.
const LONGEST_TURN: Duration = Duration::from_micros(400);

/// The clock is read once for so many calls, and not for a single one. The dearest, a batch of 100 hits, takes 0.13 ms.
const CALLS_BETWEEN_LOOKS: usize = 2;

/// A connection's turns.
#[derive(Default)]
pub(super) struct Turns {
    /// The calls that the last turn had no time for.
    left: VecDeque<BegunCall>,
    /// The last turn was as long as it may be: others have theirs first.
    resting: bool,
}

impl Turns {
    /// Polls `connection`, and then the calls that it has begun, until that takes too long by the clock that `now` reads.
    ///
    /// Most of those are hits, which end at once: none of them needs a task, and all answers to what one read has brought are there
    /// when the connection, which they wake, is next polled and sends them in one write. A call that has to wait becomes a task.
    pub(super) fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        context: &mut Context<'_>,
        now: impl Fn() -> Instant,
    ) -> Poll<C::Output> {
        if mem::take(&mut self.resting) {
            // Goes on when the worker has looked which other connections have something to read. Who is only woken again goes on for 61
            // turns before it looks.
            let _ = pin!(yield_now()).poll(context);
            return Poll::Pending;
        }
        TURN_BEGAN.set(Some(tokio::time::Instant::now().into_std()));
        let ended = connection.as_mut().poll(context);
        if !self.left.is_empty() {
            // Those come first.
            BEGUN.with_borrow_mut(|begun| {
                self.left.append(begun);
                mem::swap(begun, &mut self.left);
            });
        }
        let mut polled = 0;
        let mut since = None;
        while let Some(mut call) = BEGUN.with_borrow_mut(VecDeque::pop_front) {
            // Not to be woken: the task polls it once more.
            let unwoken = &mut Context::from_waker(Waker::noop());
            if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(unwoken))) {
                tokio::spawn(call);
            }
            polled += 1;
            if polled % CALLS_BETWEEN_LOOKS == 0 {
                let now = now();
                if now - *since.get_or_insert(now) >= LONGEST_TURN {
                    break;
                }
            }
        }
        TURN_BEGAN.set(None);
        // Each connection has its own again. Nobody waits for those of one that has ended.
        BEGUN.with_borrow_mut(|begun| {
            if !begun.is_empty() {
                mem::swap(begun, &mut self.left);
            }
        });
        // A connection that has read or written for too long is stopped by tokio.
        if ended.is_pending() && (!self.left.is_empty() || !has_budget_remaining()) {
            self.resting = true;
            context.waker().wake_by_ref();
        }
        ended
    }
}

/// Keeps a connection's calls for [`Turns::poll`]. One whose peer does not take the answer in time is reset.
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

/// tokio's timer, by which a turn takes no time: hyper, which sends pings, asks it for each frame when that came.
#[derive(Clone, Debug)]
pub(super) struct TurnTimer;

impl Timer for TurnTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn HyperSleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn HyperSleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn HyperSleep>>, deadline: Instant) {
        TokioTimer::new().reset(sleep, deadline);
    }

    fn now(&self) -> Instant {
        TURN_BEGAN.get().unwrap_or_else(|| TokioTimer::new().now())
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
