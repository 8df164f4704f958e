//! When a lookup may go out: so many at once, so many a second, none while the upstream refuses us.
//!
//! A lookup waits for its turn in a queue that is bounded. Those that somebody waits for go first; of those that nobody waits for,
//! one at a time stands in line with them, when none of the others does.

mod breaker;
mod rate;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

use self::{
    breaker::{Breaker, LONGEST_PAUSE, Pass, Report},
    rate::Rate,
};
use crate::{
    metrics::{family, metric},
    upstream::{Failure, UpstreamError, Urgency},
};

/// When to come again for a turn that was not to be had.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// When lookups may go out.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Lookups at once.
    pub concurrency: NonZeroUsize,
    /// Lookups a second, on average; a second's worth may go out at once. `None`: as many as come.
    pub rate: Option<f64>,
    /// Lookups that may wait for their turn.
    pub queue: NonZeroUsize,
}

impl Default for Pace {
    /// 32 at once, however many a second; 1,000 in the queue.
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::MIN.saturating_add(31),
            rate: None,
            queue: NonZeroUsize::MIN.saturating_add(999),
        }
    }
}

/// Lets lookups out.
pub(super) struct Pacer {
    /// Places in the queue, of which there are so many.
    queue: Semaphore,
    places: usize,
    /// Places at the upstream.
    slots: Semaphore,
    /// Locked by the lookup that begins next, until it does: one that gives up before has taken nothing.
    rate: Option<tokio::sync::Mutex<Rate>>,
    breaker: Mutex<Breaker>,
    /// How many in the queue somebody waits for.
    awaited: AtomicUsize,
    /// That number has come to zero.
    calm: Notify,
    /// Held by the one in the background that is next.
    background: Semaphore,
}

/// The leave to look up: once, and once more if that was lost.
pub(super) struct Turn<'a> {
    pacer: &'a Pacer,
    pass: Pass,
    /// What has come of it. Silence, if the lookup ends without saying.
    report: Report,
    _slot: SemaphorePermit<'a>,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        let permits = |count: NonZeroUsize| Semaphore::new(count.get().min(Semaphore::MAX_PERMITS));
        Self {
            queue: permits(pace.queue),
            places: pace.queue.get().min(Semaphore::MAX_PERMITS),
            slots: permits(pace.concurrency),
            rate: pace.rate.map(|rate| tokio::sync::Mutex::new(Rate::new(rate))),
            breaker: Mutex::default(),
            awaited: AtomicUsize::new(0),
            calm: Notify::new(),
            background: Semaphore::new(1),
        }
    }

    /// Makes the numbers known to whoever reads `registry`.
    pub(super) fn register(this: &Arc<Self>, registry: &mut Registry) {
        let pacer = Arc::clone(this);
        metric(
            registry,
            "upstream_queue",
            "Lookups that wait for their turn",
            move || ConstGauge::new((pacer.places - pacer.queue.available_permits()) as u64),
        );
        let pacer = Arc::clone(this);
        family(
            registry,
            "upstream_breaker",
            "Whether the upstream is asked: 1 for closed if it is, for open if it refuses us, for probing while one lookup tries",
            "state",
            move || {
                let current = pacer.breaker.lock().state_name();
                ["closed", "open", "probing"]
                    .map(|state| (state, ConstGauge::new(u64::from(state == current))))
            },
        );
    }

    /// Waits for a turn.
    ///
    /// # Errors
    ///
    /// At once, if the queue is full or the upstream refuses us.
    pub(super) async fn turn(&self, urgency: Urgency) -> Result<Turn<'_>, Failure> {
        // Not into the queue for a turn that is not to be had.
        self.breaker.lock().check(now()).map_err(refused)?;
        let place = self.queue.try_acquire().map_err(|_full| busy())?;
        let slot = match urgency {
            Urgency::Awaited => {
                let _waiting = Awaited::new(self);
                self.slots.acquire().await
            }
            Urgency::Background => {
                let _next = self.background.acquire().await;
                self.calm().await;
                self.slots.acquire().await
            }
        };
        let slot = slot.map_err(|_closed| busy())?;
        self.pace().await;
        drop(place);
        let pass = self.breaker.lock().admit(now()).map_err(refused)?;
        Ok(Turn {
            pacer: self,
            pass,
            report: Report::Silent,
            _slot: slot,
        })
    }

    /// Until nobody waits for anything that is in the queue.
    async fn calm(&self) {
        loop {
            // Made before the look at the number: if it comes to zero in between, this hears of it.
            let calm = self.calm.notified();
            if self.awaited.load(SeqCst) == 0 {
                return;
            }
            calm.await;
        }
    }

    /// Until one more may begin this second.
    async fn pace(&self) {
        if let Some(rate) = &self.rate {
            let mut rate = rate.lock().await;
            tokio::time::sleep_until(rate.next(now()).into()).await;
            rate.take(now());
        }
    }
}

impl Turn<'_> {
    /// Takes one more of the second's lookups, for the second attempt. `false` if there should be none: a probe that was lost
    /// has told enough.
    pub(super) async fn again(&mut self) -> bool {
        if self.pass == Pass::Probe {
            return false;
        }
        self.pacer.pace().await;
        true
    }

    /// Notes that the upstream has answered.
    pub(super) fn answered(&mut self) {
        self.report = Report::Answered;
    }

    /// Notes that the upstream refuses us, and says for how long it is left alone.
    pub(super) fn refused(mut self, status: u16, retry_after: Option<Duration>) -> Failure {
        self.report = Report::Refused { status, retry_after };
        let pacer = self.pacer;
        drop(self);
        match pacer.breaker.lock().check(now()) {
            Err(refusal) => refused(refusal),
            Ok(()) => UpstreamError::RateLimited(status).into(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut breaker = self.pacer.breaker.lock();
        breaker.report(self.pass, self.report, now());
    }
}

/// Counts a lookup that somebody waits for while it is in the queue.
struct Awaited<'a>(&'a Pacer);

impl<'a> Awaited<'a> {
    fn new(pacer: &'a Pacer) -> Self {
        pacer.awaited.fetch_add(1, SeqCst);
        Self(pacer)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if self.0.awaited.fetch_sub(1, SeqCst) == 1 {
            self.0.calm.notify_waiters();
        }
    }
}

/// tokio's time, which tests can stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

pub(super) fn busy() -> Failure {
    Failure {
        error: UpstreamError::Busy,
        retry_after: Some(BUSY_PAUSE),
    }
}

fn refused(refusal: breaker::Refused) -> Failure {
    Failure {
        error: UpstreamError::RateLimited(refusal.status),
        retry_after: Some(refusal.retry_after),
    }
}

/// The longest that an upstream is taken at its word that it wants to be left alone.
pub(super) fn bounded(retry_after: Duration) -> Duration {
    retry_after.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
