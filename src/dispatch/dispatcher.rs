//! The dispatcher: admits, starts and counts lookups. `admission` decides what is admitted, `selection` what goes out next.

use std::time::{Duration, Instant};

use super::{
    Budget, CLASSES, Class, Counters, Next, Outcome, Permit, Refused, Request, Ticket,
    calendar::Calendar,
    fair_queue::{Entry, FairQueue},
    fetch_time::FetchTime,
    nanos::nanos,
    poll_budget::PollBudget,
    reservations::Reservations,
    token_bucket::TokenBucket,
};

/// Owns the budget of one source. `T` is a value that the caller gets back when the lookup starts.
#[derive(Debug)]
pub struct Dispatcher<T> {
    pub(super) epoch: Instant,
    /// The latest time passed so far: time does not go back.
    pub(super) latest: u64,
    pub(super) longest_wait: u64,
    pub(super) places: f64,
    pub(super) bucket: Option<TokenBucket>,
    pub(super) fetches: FetchTime,
    pub(super) queue: FairQueue<T>,
    pub(super) calendar: Calendar,
    pub(super) reservations: [Reservations; CLASSES],
    /// Start-time fair queueing between classes: what each class has used, in units of its share.
    pub(super) virtual_time: [f64; CLASSES],
    /// The virtual time of the class that was served last.
    pub(super) current_virtual_time: f64,
    /// A moving average of the callers that each class has had queued, over about the longest wait.
    pub(super) usual_callers: [f64; CLASSES],
    pub(super) counters: [Counters; CLASSES],
    /// The last started lookup was preferred to one that may now be late.
    pub(super) passed_over: bool,
    /// What callers used of the rate lately.
    pub(super) poll_budget: PollBudget,
}

impl<T> Dispatcher<T> {
    /// A dispatcher with a full bucket and an empty queue.
    #[must_use]
    pub fn new(budget: &Budget, now: Instant) -> Self {
        let longest_wait = nanos(budget.max_queue_wait);
        Self {
            epoch: now,
            latest: 0,
            longest_wait,
            places: f64::from(budget.places.get()),
            bucket: budget.rate.map(|rate| TokenBucket::new(rate, budget.burst)),
            fetches: FetchTime::new(budget.slots.get()),
            queue: FairQueue::new(),
            calendar: Calendar::new(longest_wait),
            reservations: Default::default(),
            virtual_time: [0.0; CLASSES],
            current_virtual_time: 0.0,
            usual_callers: [0.0; CLASSES],
            counters: Default::default(),
            passed_over: false,
            poll_budget: PollBudget::default(),
        }
    }

    /// Admits a lookup to the queue. `chance`, from 0 to 1, spreads the times at which refused callers retry.
    ///
    /// # Errors
    ///
    /// If the lookup would go out too late for its caller or after the longest wait, or if its class or its caller has no place left. It
    /// then takes up nothing, except perhaps a reservation for its retry. A lookup that can go out at once is never refused, even if it is
    /// too late for its caller: its result is cached for the next one.
    pub fn admit(
        &mut self,
        request: &Request,
        payload: T,
        now: Instant,
        chance: f64,
    ) -> Result<Ticket, Refused> {
        let now = self.advance(now);
        let class = request.class as usize;
        let due = self.decide(request, now, chance)?;
        self.activate(class);
        let entry = Entry::new(payload, class, request.caller, now, due);
        let index = self.queue.push(entry, request.connection);
        self.calendar.insert(index, class, due);
        self.counters[class].admitted += 1;
        Ok(self.queue.ticket(index))
    }

    /// Moves a queued lookup to another class and flow: a caller now waits for what was a refresh or a poll. An earlier promise is kept,
    /// and the ticket stays valid.
    ///
    /// If callers wait for it already, it stays where it is, and is only kept in the queue for as long as the new caller needs it.
    ///
    /// # Errors
    ///
    /// Like [`Self::admit`]; the lookup then stays as it was.
    pub fn reclassify(
        &mut self,
        ticket: Ticket,
        request: &Request,
        now: Instant,
        chance: f64,
    ) -> Result<(), Refused> {
        let now = self.advance(now);
        let Some(index) = self.queue.find(ticket) else {
            return Ok(());
        };
        let Some(&Entry {
            class: before, due, ..
        }) = self.queue.entry(index)
        else {
            return Ok(());
        };
        let until = self.due(request, now);
        if let Some(entry) = self.queue.entry_mut(index)
            && (Class::ALL[before].is_awaited() || !request.class.is_awaited())
        {
            entry.until = entry.until.max(until);
            return Ok(());
        }
        let promised = self.decide(request, now, chance)?.min(due);
        let class = request.class as usize;
        self.activate(class);
        self.calendar.remove(index, before, due);
        self.queue
            .move_to(index, class, request.caller, request.connection);
        if let Some(entry) = self.queue.entry_mut(index) {
            entry.due = promised;
            entry.until = entry.until.max(until);
        }
        self.calendar.insert(index, class, promised);
        self.counters[before].moved += 1;
        self.counters[class].admitted += 1;
        Ok(())
    }

    /// Removes a lookup whose last caller has left. Its place is free at once.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let index = self.queue.find(ticket)?;
        let (_, entry) = self.remove(index)?;
        self.counters[entry.class].cancelled += 1;
        Some(entry.payload)
    }

    /// Removes any lookup, or returns `None` if the queue is empty: the source has closed.
    pub fn drain(&mut self) -> Option<(Ticket, T)> {
        let index = self.calendar.earliest()?;
        let (ticket, entry) = self.remove(index)?;
        self.counters[entry.class].expired += 1;
        Some((ticket, entry.payload))
    }

    /// What to do next. Call it until it returns a wait; call it again at that time, and whenever something was admitted, finished or
    /// returned.
    pub fn next(&mut self, now: Instant) -> Next<T> {
        let now = self.advance(now);
        while let Some(index) = self.calendar.overdue(now) {
            if let Some(expired) = self.expire(index, now) {
                return expired;
            }
        }
        let Some(first_over) = self.calendar.first_over() else {
            return Next::Idle;
        };
        if self.fetches.free() == 0 {
            return Next::WaitUntil(self.instant(first_over));
        }
        let ready = self.bucket.as_ref().map_or(now, |bucket| bucket.ready_at(now));
        if ready > now {
            return Next::WaitUntil(self.instant(ready.min(first_over)));
        }
        let Some(index) = self.select(now) else {
            return Next::Idle;
        };
        if let Some(expired) = self.expire(index, now) {
            return expired;
        }
        self.start(index, now)
    }

    /// Notes that the permit's request is sent.
    pub fn note_sent(&mut self, permit: &Permit) {
        self.counters[permit.class as usize].sent += 1;
    }

    /// Frees the slot of a lookup that has ended.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used once")]
    pub fn finished(&mut self, permit: Permit, now: Instant, outcome: Outcome) {
        let now = self.advance(now);
        let Permit { begun, .. } = permit;
        match outcome {
            Outcome::Completed => self.fetches.complete(begun, now),
            Outcome::Abandoned => self.fetches.abandon(),
        }
    }

    /// Takes back a permit without a request: its token and slot are free for the next lookup.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used once")]
    pub fn return_unused(&mut self, permit: Permit) {
        let Permit { class, .. } = permit;
        self.fetches.abandon();
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back();
        }
        // Its class has not used its turn.
        self.virtual_time[class as usize] -= class.share().recip();
        self.counters[class as usize].returned += 1;
    }

    /// Takes one more token for a retry under the same permit, if no queued lookup would then be late. The retry counts as sent.
    ///
    /// # Errors
    ///
    /// When to ask again.
    pub fn try_retry(&mut self, permit: &Permit, now: Instant) -> Result<(), Instant> {
        let now = self.advance(now);
        let Some(bucket) = &self.bucket else {
            self.note_sent(permit);
            return Ok(());
        };
        let ready = bucket.ready_at(now);
        if ready > now {
            return Err(self.instant(ready));
        }
        if !self
            .calendar
            .can_wait(self.calendar.last(), now, self.capacity(now))
        {
            return Err(self.instant(now + 1_000_000_000));
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now);
        }
        self.virtual_time[permit.class as usize] += permit.class.share().recip();
        self.note_sent(permit);
        self.counters[permit.class as usize].retried += 1;
        Ok(())
    }

    /// The time that most fetches stay below. A caller's deadline minus this is its latest useful start.
    #[must_use]
    pub fn usual_fetch(&self, now: Instant) -> Duration {
        let now = nanos(now.saturating_duration_since(self.epoch)).max(self.latest);
        Duration::from_secs_f64(self.fetches.usual(now).min(86_400.0))
    }

    /// Queued lookups.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.queue.queued()
    }

    /// The counts of `class`.
    #[must_use]
    pub fn counters(&self, class: Class) -> Counters {
        Counters {
            queued: self.queue.queued_of(class as usize),
            ..self.counters[class as usize]
        }
    }

    /// Callers of `class` with queued lookups.
    #[must_use]
    pub fn callers(&self, class: Class) -> u32 {
        self.queue.callers_of(class as usize)
    }

    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        self.queue.flows()
    }

    fn start(&mut self, index: u32, now: u64) -> Next<T> {
        self.queue.end_turn(index);
        let Some((ticket, entry)) = self.remove(index) else {
            return Next::Idle;
        };
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now);
        }
        self.fetches.begin(now);
        let class = Class::ALL[entry.class];
        self.current_virtual_time = self.virtual_time[entry.class];
        self.virtual_time[entry.class] += class.share().recip();
        let waited = Duration::from_nanos(now.saturating_sub(entry.arrived));
        let counters = &mut self.counters[entry.class];
        counters.started += 1;
        counters.waited += waited;
        Next::Start {
            ticket,
            payload: entry.payload,
            waited,
            permit: Permit { class, begun: now },
        }
    }

    /// Removes a lookup whose time is over. If a later caller has joined it, gives it a later due time instead.
    fn expire(&mut self, index: u32, now: u64) -> Option<Next<T>> {
        let entry = self.queue.entry_mut(index)?;
        let (class, due) = (entry.class, entry.due);
        if entry.until >= now {
            if due < now {
                entry.due = entry.until;
                let until = entry.until;
                self.calendar.remove(index, class, due);
                self.calendar.insert(index, class, until);
            }
            return None;
        }
        let (ticket, entry) = self.remove(index)?;
        self.counters[class].expired += 1;
        Some(Next::Expired {
            ticket,
            payload: entry.payload,
            refused: self.refuse_expired(class, entry.caller, now),
        })
    }

    fn remove(&mut self, index: u32) -> Option<(Ticket, Entry<T>)> {
        let (ticket, entry) = self.queue.remove(index)?;
        self.calendar.remove(index, entry.class, entry.due);
        Some((ticket, entry))
    }

    /// Advances the time and the averages to `now`.
    #[expect(clippy::cast_precision_loss, reason = "a weight")]
    fn advance(&mut self, now: Instant) -> u64 {
        let before = self.latest;
        self.latest = before.max(self.nanos(now));
        let passed = (self.latest - before) as f64;
        let weight = passed / (passed + self.longest_wait as f64 + 1.0);
        for (class, usual) in self.usual_callers.iter_mut().enumerate() {
            *usual += weight * (f64::from(self.queue.callers_of(class)) - *usual);
        }
        // Moves the calendar past empty buckets, so that it has buckets for new promises.
        self.calendar.overdue(self.latest);
        self.latest
    }

    pub(super) fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch))
    }

    /// The rate of polls for which there is room now: the rate, or the throughput of the slots, minus what other lookups and retries used
    /// lately; at least the share of polls. `None` without a rate: unlimited. To be called about once a second.
    pub fn room_for_polls(&mut self, now: Instant) -> Option<f64> {
        let now = self.nanos(now);
        let taken = Class::ALL.iter().map(|class| {
            let counters = &self.counters[*class as usize];
            let used = if *class == Class::Poll {
                0
            } else {
                counters.started.saturating_sub(counters.returned)
            };
            used + counters.retried
        });
        self.poll_budget.count(taken.sum(), now);
        let rate = self.bucket.as_ref().map(TokenBucket::rate)?;
        let capacity = rate.min(self.fetches.promised_rate(now));
        Some(
            self.poll_budget
                .left(capacity, self.queue.queued_of(Class::Poll as usize)),
        )
    }

    fn instant(&self, at: u64) -> Instant {
        let at = Duration::from_nanos(at);
        self.epoch.checked_add(at).unwrap_or(self.epoch)
    }
}
