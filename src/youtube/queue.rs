//! The line of lookups that wait for their turn: the async shell around [`Dispatcher`], which decides.
//!
//! A lookup that is admitted waits for a [`Permit`]. Whoever admits one starts what may go out at once; as long as something is in
//! line, one task (the *timer*) wakes when the next may.

mod metrics;
mod overload;

use std::{
    collections::{HashMap, hash_map},
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::sleep_until,
};

use self::{
    metrics::Waits,
    overload::{Overload, QUIET},
};
use crate::{
    dispatch::{self, Budget, Class, Dispatcher, Next, Outcome, Ticket},
    upstream::{Failure, Feed, LookupRequest, Purpose, UpstreamError},
};

/// When lookups may go out.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Lookups at once.
    pub concurrency: NonZeroUsize,
    /// Lookups a second, on average; a second's worth may go out at once. `None`: as many as come.
    pub rate: Option<f64>,
    /// Lookups that may wait for their turn.
    pub queue: NonZeroUsize,
    /// The longest that one waits. One whose turn would come later is refused on arrival.
    pub max_queue_wait: Duration,
}

impl Default for Pace {
    /// 32 at once, however many a second; 1,000 in the queue, for 5 s at most.
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::MIN.saturating_add(31),
            rate: None,
            queue: NonZeroUsize::MIN.saturating_add(999),
            max_queue_wait: Duration::from_secs(5),
        }
    }
}

impl Pace {
    fn budget(&self) -> Budget {
        let count = |count: NonZeroUsize| NonZeroU32::try_from(count).unwrap_or(NonZeroU32::MAX);
        Budget {
            rate: self.rate,
            burst: self.rate.unwrap_or_default().max(1.0),
            slots: count(self.concurrency),
            places: count(self.queue),
            max_queue_wait: self.max_queue_wait,
        }
    }
}

/// Lookups that wait for their turn, and the budget that hands turns out.
pub(super) struct Queue {
    /// Held for one decision, and never while anybody is sent anything: a permit that nobody takes locks it to give itself back.
    state: Mutex<State>,
    /// Wakes the timer: a permit came back, or something was admitted that may have to go out sooner.
    changed: Notify,
    waits: Waits,
    /// Lookups a second, as configured.
    rate: Option<f64>,
}

/// Where a lookup is told that its turn has come.
type Turn = oneshot::Sender<Result<Permit, Failure>>;

struct State {
    dispatcher: Dispatcher<Turn>,
    /// What is in line, so that whoever joins a lookup finds it.
    tickets: HashMap<Feed, Ticket>,
    /// Starts what is due. Ends by itself when the line is empty, or with its runtime.
    timer: Option<JoinHandle<()>>,
    overload: Overload,
}

/// The leave to look up. Gives back what was not used when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    queue: Arc<Queue>,
    inner: Option<dispatch::Permit>,
    /// `None`: no request was sent yet.
    outcome: Option<Outcome>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(pace: &Pace) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                dispatcher: Dispatcher::new(&pace.budget(), now()),
                tickets: HashMap::new(),
                timer: None,
                overload: Overload::default(),
            }),
            changed: Notify::new(),
            waits: Waits::default(),
            rate: pace.rate,
        })
    }

    /// Waits for a turn. Dropped before, the lookup leaves the line.
    ///
    /// # Errors
    ///
    /// At once if the turn would come too late, with the time at which it makes sense to come again. Later if fetches have become so
    /// slow that it does come too late, or by [`Self::drain`].
    pub(super) async fn permit(
        self: &Arc<Self>,
        feed: Feed,
        request: LookupRequest,
    ) -> Result<Permit, Failure> {
        let (sender, receiver) = oneshot::channel();
        let admitted = self.admit(feed, &request, sender);
        let ticket = admitted.map_err(|refused| self.refuse(refused))?;
        // Before the first `await`: this future may be dropped at any.
        let _queued = Queued {
            queue: self,
            feed,
            ticket,
        };
        if self.start_due().is_some() {
            self.keep_time();
        }
        receiver.await.unwrap_or_else(|_torn_down| Err(busy(None)))
    }

    fn admit(&self, feed: Feed, request: &LookupRequest, sender: Turn) -> Result<Ticket, dispatch::Refused> {
        let now = now();
        let mut state = self.state.lock();
        let request = state.request(request, now);
        let ticket = state.dispatcher.admit(&request, sender, now, fastrand::f64())?;
        state.tickets.insert(feed, ticket);
        Ok(ticket)
    }

    /// Another caller waits for the lookup of `feed`, if that is in line: it is in the caller's class from now on if nobody has waited
    /// for it before, and stays in line for as long as either has use for it.
    pub(super) fn joined(self: &Arc<Self>, feed: Feed, request: LookupRequest) {
        let now = now();
        let mut state = self.state.lock();
        if let Some(ticket) = state.tickets.get(&feed).copied() {
            let request = state.request(&request, now);
            // Refused, it keeps its place where it was.
            let _ = state
                .dispatcher
                .reclassify(ticket, &request, now, fastrand::f64());
            self.changed.notify_one();
        }
    }

    /// Starts all that may go out by now. Returns when to come back, if anything is left in line.
    fn start_due(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let next = self.state.lock().dispatcher.next(now());
            match next {
                Next::Start {
                    payload,
                    permit,
                    waited,
                    ..
                } => {
                    self.waits.observe(permit.class(), waited);
                    // One that nobody takes any more gives itself back.
                    let _ = payload.send(Ok(Permit {
                        queue: Arc::clone(self),
                        inner: Some(permit),
                        outcome: None,
                    }));
                }
                Next::Expired { payload, refused, .. } => {
                    let _ = payload.send(Err(self.refuse(refused)));
                }
                Next::WaitUntil(at) => return Some(at),
                Next::Idle => return None,
            }
        }
    }

    /// Sees to it that the timer runs, and looks again.
    fn keep_time(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.timer.as_ref().is_some_and(|timer| !timer.is_finished()) {
            self.changed.notify_one();
            return;
        }
        let queue = Arc::clone(self);
        state.timer = Some(tokio::spawn(async move {
            loop {
                if let Some(at) = queue.start_due() {
                    tokio::select! {
                        () = sleep_until(at.into()) => {}
                        () = queue.changed.notified() => {}
                    }
                    continue;
                }
                let mut state = queue.state.lock();
                // Under the lock: who admits one after this finds no timer, and starts another.
                if state.dispatcher.queued() == 0 {
                    state.timer = None;
                    return;
                }
            }
        }));
    }

    /// Takes everything out of the line: the source refuses us.
    pub(super) fn drain(&self, failure: &Failure) {
        loop {
            let next = self.state.lock().dispatcher.drain();
            let Some((_ticket, sender)) = next else { return };
            let _ = sender.send(Err(failure.clone()));
        }
    }

    /// What a refused lookup is told; and the log, when refusals begin.
    fn refuse(self: &Arc<Self>, refused: dispatch::Refused) -> Failure {
        if self.state.lock().overload.refuse(now()) {
            // Of no lookup: it is the first of many, and its span would say that it is about this one.
            tracing::warn!(
                parent: None,
                retry_after = ?refused.retry_after,
                "more lookups are asked for than may go out (--upstream-rate, --upstream-concurrency): the rest gets OVERLOADED"
            );
            let queue = Arc::downgrade(self);
            // Tells when it is over. Ends then, or with the queue or its runtime.
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(QUIET).await;
                    let Some(queue) = queue.upgrade() else { return };
                    let over = queue.state.lock().overload.end(now());
                    if let Some(over) = over {
                        tracing::info!(parent: None, refused = over.refused, lasted = ?over.lasted, "no lookup is refused any more");
                        return;
                    }
                }
            });
        }
        busy(Some(refused.retry_after))
    }

    /// How many polls a second there is room for just now. `None`: there is no rate.
    pub(super) fn room_for_polls(&self) -> Option<f64> {
        self.state.lock().dispatcher.room_for_polls(now())
    }
}

impl State {
    fn request(&self, request: &LookupRequest, now: Instant) -> dispatch::Request {
        let usual_fetch = self.dispatcher.usual_fetch(now);
        let latest = |deadline: tokio::time::Instant| deadline.into_std().checked_sub(usual_fetch);
        dispatch::Request {
            class: class(request),
            caller: request.caller.id,
            connection: request.caller.connection,
            latest_start: request
                .caller
                .deadline
                .map(|deadline| latest(deadline).unwrap_or(now)),
        }
    }
}

impl Permit {
    /// Notes that a request goes out: from now on the permit is used.
    pub(super) fn begin(&mut self) {
        self.outcome = Some(Outcome::Abandoned);
        if let Some(permit) = &self.inner {
            self.queue.state.lock().dispatcher.note_sent(permit);
        }
    }

    /// Notes that the source has answered, or that its time is up: that tells how long a fetch takes.
    pub(super) fn complete(&mut self) {
        self.outcome = Some(Outcome::Completed);
    }

    /// Takes one more of the rate's lookups for a second attempt. `false` if none is free at once.
    pub(super) fn try_retry(&self) -> bool {
        let mut state = self.queue.state.lock();
        self.inner
            .as_ref()
            .is_some_and(|permit| state.dispatcher.try_retry(permit, now()).is_ok())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(permit) = self.inner.take() else { return };
        let dispatcher = &mut self.queue.state.lock().dispatcher;
        match self.outcome {
            Some(outcome) => dispatcher.finished(permit, now(), outcome),
            None => dispatcher.return_unused(permit),
        }
        // If anything is in line, the timer runs.
        self.queue.changed.notify_one();
    }
}

/// A lookup in line. Takes it out when it is dropped, unless its turn has come.
struct Queued<'a> {
    queue: &'a Queue,
    feed: Feed,
    ticket: Ticket,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        // Not a temporary of the statement: the payload is dropped after the lock is released.
        let payload = {
            let mut state = self.queue.state.lock();
            // Another lookup of the same feed may be in line by now: this one was invalidated.
            if let hash_map::Entry::Occupied(entry) = state.tickets.entry(self.feed)
                && *entry.get() == self.ticket
            {
                entry.remove();
            }
            state.dispatcher.cancel(self.ticket)
        };
        drop(payload);
    }
}

fn class(request: &LookupRequest) -> Class {
    match request.purpose {
        Purpose::Awaited if request.found_before => Class::AwaitedKnown,
        Purpose::Awaited => Class::AwaitedUnknown,
        Purpose::Refresh => Class::Refresh,
        Purpose::Poll => Class::Poll,
    }
}

/// Tokio's time, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn busy(retry_after: Option<Duration>) -> Failure {
    Failure {
        error: UpstreamError::Busy,
        retry_after,
    }
}

#[cfg(test)]
mod tests;
