//! The queue of lookups that wait for a permit: the async shell around [`Dispatcher`], which decides.
//!
//! An admitted lookup waits for a [`Permit`]. Whoever admits one starts everything that may go out now; while the queue is not empty, one
//! task (the *timer*) wakes when the next lookup may go out.

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
    overload::{Overload, QUIET_PERIOD},
};
use crate::{
    dispatch::{self, Budget, Class, Dispatcher, Next, Outcome, Ticket},
    upstream::{Failure, Feed, LookupRequest, Purpose, UpstreamError},
};

/// Rate, concurrency and queue of lookups.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Concurrent lookups.
    pub concurrency: NonZeroUsize,
    /// Lookups a second, on average; the burst is one second's worth. `None`: unlimited.
    pub rate: Option<f64>,
    /// The most queued lookups.
    pub queue: NonZeroUsize,
    /// The longest wait. A lookup that would wait longer is refused on arrival.
    pub max_queue_wait: Duration,
}

impl Default for Pace {
    /// 32 concurrent lookups, no limit of the rate; 1,000 queued lookups, for at most 5 s.
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

/// What the log says when a queue begins to refuse lookups, and when it no longer does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverloadMessages {
    pub(crate) begins: &'static str,
    pub(crate) ends: &'static str,
}

/// The queued lookups, and the budget that they share.
pub(crate) struct Queue {
    /// Locked for one decision. Must not be locked while a permit is sent: if nobody receives it, its drop locks the state.
    state: Mutex<State>,
    /// Wakes the timer: a permit was returned, or a lookup admitted that may have to go out sooner.
    changed: Notify,
    waits: Waits,
    /// The configured rate, in lookups a second.
    rate: Option<f64>,
    messages: OverloadMessages,
}

/// Sends a queued lookup its permit.
type PermitSender = oneshot::Sender<Result<Permit, Failure>>;

struct State {
    dispatcher: Dispatcher<PermitSender>,
    /// The tickets of queued lookups, for callers who join them.
    tickets: HashMap<Feed, Ticket>,
    /// Starts due lookups. Ends when the queue is empty, or with its runtime.
    timer: Option<JoinHandle<()>>,
    overload: Overload,
}

/// Permission for one lookup. Dropping it returns what was not used.
#[derive(Debug)]
pub(crate) struct Permit {
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
    pub(crate) fn new(pace: &Pace, messages: OverloadMessages) -> Arc<Self> {
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
            messages,
        })
    }

    /// Waits for a permit for the lookup of a feed, or of a name. Dropping the future takes the lookup out of the queue.
    ///
    /// # Errors
    ///
    /// At once if the permit would come too late, with the time at which to retry. Later if fetches have become so slow that it does come
    /// too late, or by [`Self::drain`].
    pub(crate) async fn permit(
        self: &Arc<Self>,
        feed: impl Into<Option<Feed>>,
        request: LookupRequest,
    ) -> Result<Permit, Failure> {
        let (feed, (sender, receiver)) = (feed.into(), oneshot::channel());
        let admitted = self.admit(feed, &request, sender);
        let ticket = admitted.map_err(|refused| self.refuse(refused))?;
        // Before the first `await`, at any of which this future may be dropped.
        let _queued = Queued {
            queue: self,
            feed,
            ticket,
        };
        if self.start_due().is_some() {
            self.ensure_timer();
        }
        receiver.await.unwrap_or_else(|_torn_down| Err(busy(None)))
    }

    fn admit(
        &self,
        feed: Option<Feed>,
        request: &LookupRequest,
        sender: PermitSender,
    ) -> Result<Ticket, dispatch::Refused> {
        let now = now();
        let mut state = self.state.lock();
        let request = state.request(request, now);
        let ticket = state.dispatcher.admit(&request, sender, now, fastrand::f64())?;
        if let Some(feed) = feed {
            state.tickets.insert(feed, ticket);
        }
        Ok(ticket)
    }

    /// Notes that another caller waits for the lookup of `feed`, if it is queued. If nobody waited for it before, it moves to that caller's
    /// class; it stays queued for as long as either caller needs it.
    pub(super) fn joined(self: &Arc<Self>, feed: Feed, request: &LookupRequest) {
        let now = now();
        let mut state = self.state.lock();
        if let Some(ticket) = state.tickets.get(&feed).copied() {
            let request = state.request(request, now);
            // If refused, it stays where it was.
            let _ = state
                .dispatcher
                .reclassify(ticket, &request, now, fastrand::f64());
            self.changed.notify_one();
        }
    }

    /// Starts every lookup that may go out now. Returns when to call this again, if any is queued.
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
                    // If nobody receives the permit, its drop returns it.
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

    /// Starts the timer, or wakes it.
    fn ensure_timer(self: &Arc<Self>) {
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
                // Under the lock, so that the next one to admit a lookup finds no timer and starts another.
                if state.dispatcher.queued() == 0 {
                    state.timer = None;
                    return;
                }
            }
        }));
    }

    /// Fails all queued lookups: the source refuses this address.
    pub(super) fn drain(&self, failure: &Failure) {
        loop {
            let next = self.state.lock().dispatcher.drain();
            let Some((_ticket, sender)) = next else { return };
            let _ = sender.send(Err(failure.clone()));
        }
    }

    /// The failure of a refused lookup. Logs when refusals begin.
    fn refuse(self: &Arc<Self>, refused: dispatch::Refused) -> Failure {
        if self.state.lock().overload.record_refusal(now()) {
            // Outside of the lookup's span: it concerns all lookups.
            tracing::warn!(parent: None, retry_after = ?refused.retry_after, "{}", self.messages.begins);
            let queue = Arc::downgrade(self);
            // Logs the end of the overload. Ends then, or with the queue or its runtime.
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(QUIET_PERIOD).await;
                    let Some(queue) = queue.upgrade() else { return };
                    let over = queue.state.lock().overload.try_end(now());
                    if let Some(over) = over {
                        tracing::info!(parent: None, refused = over.refused, lasted = ?over.lasted, "{}", queue.messages.ends);
                        return;
                    }
                }
            });
        }
        busy(Some(refused.retry_after))
    }

    /// The number of queued lookups, and of requests sent.
    pub(super) fn counts(&self) -> (u64, u64) {
        let dispatcher = &self.state.lock().dispatcher;
        let sent = Class::ALL.map(|class| dispatcher.counters(class).sent);
        (dispatcher.queued().into(), sent.iter().sum())
    }

    /// The rate of polls, per second, for which there is room now. `None`: the rate is not limited.
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
    /// Notes that a request is sent: the permit is used.
    pub(crate) fn begin(&mut self) {
        self.outcome = Some(Outcome::Abandoned);
        if let Some(permit) = &self.inner {
            self.queue.state.lock().dispatcher.note_sent(permit);
        }
    }

    /// Notes a response or a time-out: the time it took is a measurement of how long fetches take.
    pub(crate) fn complete(&mut self) {
        self.outcome = Some(Outcome::Completed);
    }

    /// Takes one more token for a retry. Returns false if none is available now.
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
        // The timer runs if any lookup is queued.
        self.queue.changed.notify_one();
    }
}

/// A queued lookup. Dropping it removes the lookup, unless it has its permit.
struct Queued<'a> {
    queue: &'a Queue,
    feed: Option<Feed>,
    ticket: Ticket,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        // Not a temporary of one statement: the payload has to be dropped after the lock is released.
        let payload = {
            let mut state = self.queue.state.lock();
            // The ticket may be of another lookup of the same feed, if this one was invalidated.
            if let Some(feed) = self.feed
                && let hash_map::Entry::Occupied(entry) = state.tickets.entry(feed)
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

/// Tokio's clock, which tests can pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn busy(retry_after: Option<Duration>) -> Failure {
    Failure {
        retry_after,
        ..UpstreamError::Busy.into()
    }
}

#[cfg(test)]
mod tests;
