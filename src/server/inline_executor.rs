//! Runs the calls of a connection on the connection's own task, in time slices, so that hits need no task each and their responses leave
//! in one write. Also resets calls whose peer does not read the response in time.

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

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The calls that the connection being polled has started.
    static STARTED_CALLS: RefCell<VecDeque<Call>> = const { RefCell::new(VecDeque::new()) };

    /// Set by the call being polled when its response starts: how long sending it may take.
    static SEND_TIMEOUT: Cell<Option<Duration>> = const { Cell::new(None) };

    /// The start of this thread's time slice.
    static SLICE_START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Requires the response of the call being polled to be sent within `timeout` from now.
pub(super) fn start_send_timeout(timeout: Option<Duration>) {
    SEND_TIMEOUT.set(timeout);
}

/// How long a connection may run its calls before the worker's other connections are polled. 200 batches of 100 hits would delay those
/// for 25 ms; 100 hits take 0.3 ms.
const TIME_SLICE: Duration = Duration::from_micros(400);

/// The clock is read once for this many calls. The most expensive one, a batch of 100 hits, takes 0.13 ms.
const CALLS_PER_CLOCK_READ: usize = 2;

/// Polls a connection and its calls in time slices.
#[derive(Default)]
pub(super) struct ConnectionDriver {
    /// The calls for which the last slice had no time left.
    pending_calls: VecDeque<Call>,
    /// The last slice was used up, so the next poll yields to other connections.
    yields: bool,
}

impl ConnectionDriver {
    /// Polls `connection`, and then the calls that it has started, until the time slice is over by the clock `now`.
    ///
    /// Most calls are hits, which complete in their first poll. They need no task, and the responses to all requests of one read are
    /// ready when the connection, which they wake, is polled next and sends them in one write. A call that is pending becomes a task.
    pub(super) fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        context: &mut Context<'_>,
        now: impl Fn() -> Instant,
    ) -> Poll<C::Output> {
        if mem::take(&mut self.yields) {
            // Wakes the task after the worker has polled for I/O. A plain wake would let it run 61 more times before that.
            let _ = pin!(yield_now()).poll(context);
            return Poll::Pending;
        }
        SLICE_START.set(Some(tokio::time::Instant::now().into_std()));
        let ended = connection.as_mut().poll(context);
        if !self.pending_calls.is_empty() {
            // They come first.
            STARTED_CALLS.with_borrow_mut(|started| {
                self.pending_calls.append(started);
                mem::swap(started, &mut self.pending_calls);
            });
        }
        let mut polled = 0;
        let mut since = None;
        while let Some(mut call) = STARTED_CALLS.with_borrow_mut(VecDeque::pop_front) {
            // No waker is needed, since a new task polls the call again.
            let no_waker = &mut Context::from_waker(Waker::noop());
            if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(no_waker))) {
                tokio::spawn(call);
            }
            polled += 1;
            if polled % CALLS_PER_CLOCK_READ == 0 {
                let now = now();
                if now - *since.get_or_insert(now) >= TIME_SLICE {
                    break;
                }
            }
        }
        SLICE_START.set(None);
        // The thread's next connection must not find them. If this one has ended, they are dropped with it.
        STARTED_CALLS.with_borrow_mut(|started| {
            if !started.is_empty() {
                mem::swap(started, &mut self.pending_calls);
            }
        });
        // tokio stops a connection that reads or writes for too long by its cooperative budget.
        if ended.is_pending() && (!self.pending_calls.is_empty() || !has_budget_remaining()) {
            self.yields = true;
            context.waker().wake_by_ref();
        }
        ended
    }
}

/// Queues the calls that hyper starts for [`ConnectionDriver::poll`], with a timeout for sending the response.
///
/// The timeout is here, and not in the body, because hyper does not poll a body while the peer's window is full.
#[derive(Clone, Debug)]
pub(super) struct InlineExecutor;

impl<F> Executor<F> for InlineExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        STARTED_CALLS
            .with_borrow_mut(|started| started.push_back(Box::pin(SendTimeout { call, timeout: None })));
    }
}

/// tokio's timer, with a clock that stands still during a time slice: because of keepalive pings, hyper reads it for every frame.
#[derive(Clone, Debug)]
pub(super) struct SliceTimer;

impl Timer for SliceTimer {
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
        SLICE_START.get().unwrap_or_else(|| TokioTimer::new().now())
    }
}

pin_project! {
    /// A call, dropped when sending its response takes too long.
    struct SendTimeout<F> {
        #[pin]
        call: F,
        // Created only if the response cannot be sent at once.
        #[pin]
        timeout: Option<Sleep>,
    }
}

impl<F: Future<Output = ()>> Future for SendTimeout<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        SEND_TIMEOUT.set(None);
        let sent = this.call.poll(context);
        let timeout = SEND_TIMEOUT.take();
        if sent.is_ready() {
            return Poll::Ready(());
        }
        if let Some(timeout) = timeout {
            this.timeout.set(Some(tokio::time::sleep(timeout)));
        }
        match this.timeout.as_pin_mut() {
            Some(timeout) => timeout.poll(context),
            None => Poll::Pending,
        }
    }
}
