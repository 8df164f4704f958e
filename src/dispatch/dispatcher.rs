//! The dispatcher: admission, the fair order, permits.

use std::time::{Duration, Instant};

use super::{
    Budget, CLASSES, Class, Counters, Next, Outcome, Permit, Refused, Request, Ticket,
    calendar::{Calendar, Room},
    fetch_time::FetchTime,
    line::{Entry, Line},
    returns::Returns,
    token_bucket::TokenBucket,
};

/// A caller may have so many times as many lookups in line as there are places left (Choudhury and Hahne's dynamic threshold). One
/// greedy caller gets eight ninths of the line, two get eight seventeenths each; the rest is for who comes next.
const GREED: f64 = 8.0;

/// A caller that has lookups in line leaves this part of the line to those who have none, and two places at least: what can be
/// promised sways as reservations fall due and as fetches take longer or shorter.
const LEFT: f64 = 0.05;

/// And its further lookups have to get their turn within this part of the wait that they may have: whoever comes meanwhile takes
/// turns with it, and a line in which everything has become urgent is served in order of urgency, fairly to nobody.
const UNHURRIED: f64 = 0.6;

/// The part of the slots' throughput that is promised: how long fetches take is an estimate.
const SLOTS_IN_USE: f64 = 0.95;

/// Of the places that could be promised, at most this part is held for callers who were told to come again, so that the line
/// does not run dry if none of them does.
const HELD: f64 = 0.5;

/// The part of a class's rate that is given to who was told to come again: the rest is for who is new.
const RETURNING: f64 = 0.9;

/// A lookup that could go out at once is due this much later, in nanoseconds: whoever let it in has to come round to starting it.
const AT_ONCE: u64 = 100_000_000;

/// Owns the budget of one source. `T` is what the owner of a lookup wants back when its turn comes.
#[derive(Debug)]
pub struct Dispatcher<T> {
    epoch: Instant,
    /// The latest time that was told: it does not go back.
    latest: u64,
    longest_wait: u64,
    places: f64,
    bucket: Option<TokenBucket>,
    fetches: FetchTime,
    line: Line<T>,
    calendar: Calendar,
    returns: [Returns; CLASSES],
    /// Start-time fair queueing between classes: what each has used, in units of its share.
    virtual_time: [f64; CLASSES],
    /// Of the class that went out last.
    current: f64,
    /// How many callers each class has had in line over about the longest wait.
    usual_callers: [f64; CLASSES],
    counters: [Counters; CLASSES],
}

/// Where a request would stand.
struct Estimate {
    /// The wait that is too long, in seconds: how much too long. Negative if it is short enough.
    late: f64,
    /// Places that are missing, likewise.
    missing: f64,
    /// Lookups of its class that go out in a second.
    class_rate: f64,
}

impl Estimate {
    fn is_good(&self) -> bool {
        self.late <= 0.0 && self.missing <= 0.0
    }
}

impl<T> Dispatcher<T> {
    /// A dispatcher with a full bucket and an empty line.
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
            line: Line::new(),
            calendar: Calendar::new(longest_wait),
            returns: Default::default(),
            virtual_time: [0.0; CLASSES],
            current: 0.0,
            usual_callers: [0.0; CLASSES],
            counters: Default::default(),
        }
    }

    /// Lets a lookup into the line. `chance`, from 0 to 1, spreads those who are told to come again.
    ///
    /// # Errors
    ///
    /// If its turn would come too late for its caller or after the longest wait, or if its class and its caller have no place left.
    /// It takes nothing then but, if it may, a reservation for when it comes again. A lookup that could go out at once is never
    /// refused, not even if it comes too late for its caller: what it brings is kept for the next.
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
        self.wake(class);
        let entry = Entry::new(payload, class, request.caller, now, due);
        let index = self.line.push(entry, request.connection);
        self.calendar.insert(index, class, due);
        self.counters[class].admitted += 1;
        Ok(self.line.ticket(index))
    }

    /// Moves a queued lookup to another class and flow: a caller has come to wait for what was a refresh or a poll. A lookup that
    /// was promised for an earlier time still is. The ticket stays valid.
    ///
    /// If callers wait for it already, it stays where it is, and is only kept in line for as long as the new one has use for it.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`]; the lookup then stays as it was.
    pub fn reclassify(
        &mut self,
        ticket: Ticket,
        request: &Request,
        now: Instant,
        chance: f64,
    ) -> Result<(), Refused> {
        let now = self.advance(now);
        let Some(index) = self.line.find(ticket) else {
            return Ok(());
        };
        let Some(&Entry {
            class: before, due, ..
        }) = self.line.entry(index)
        else {
            return Ok(());
        };
        let until = self.due(request, now);
        if let Some(entry) = self.line.entry_mut(index)
            && (Class::ALL[before].is_awaited() || !request.class.is_awaited())
        {
            entry.until = entry.until.max(until);
            return Ok(());
        }
        let promised = self.decide(request, now, chance)?.min(due);
        let class = request.class as usize;
        self.wake(class);
        self.calendar.remove(index, before, due);
        self.line
            .move_to(index, class, request.caller, request.connection);
        if let Some(entry) = self.line.entry_mut(index) {
            entry.due = promised;
            entry.until = entry.until.max(until);
        }
        self.calendar.insert(index, class, promised);
        self.counters[before].cancelled += 1;
        self.counters[class].admitted += 1;
        Ok(())
    }

    /// Takes a lookup out of the line: its last caller has left. Its place is free at once.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let index = self.line.find(ticket)?;
        let (_, entry) = self.take_out(index)?;
        self.counters[entry.class].cancelled += 1;
        Some(entry.payload)
    }

    /// Takes any lookup out of the line, until there is none: the source has closed.
    pub fn drain(&mut self) -> Option<(Ticket, T)> {
        let index = self.calendar.earliest()?;
        let (ticket, entry) = self.take_out(index)?;
        self.counters[entry.class].expired += 1;
        Some((ticket, entry.payload))
    }

    /// What to do next. To be called until it says to wait; and again when that time has come, and whenever something was admitted,
    /// finished or returned.
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
        let Some(index) = self.pick(now) else {
            return Next::Idle;
        };
        if let Some(expired) = self.expire(index, now) {
            return expired;
        }
        self.start(index, now)
    }

    /// Takes in what became of a lookup: its slot is free.
    pub fn finished(&mut self, permit: Permit, now: Instant, outcome: Outcome) {
        let now = self.advance(now);
        let Permit { begun, .. } = permit;
        match outcome {
            Outcome::Completed => self.fetches.complete(begun, now),
            Outcome::Abandoned => self.fetches.forget(),
        }
    }

    /// Takes back a permit for which nothing was sent: its token and its slot are free for the next.
    pub fn return_unused(&mut self, permit: Permit) {
        let Permit { class, .. } = permit;
        self.fetches.forget();
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back();
        }
        // Its class has not used its turn.
        self.virtual_time[class as usize] -= class.share().recip();
        self.counters[class as usize].returned += 1;
    }

    /// Takes one more token for a second attempt under the same permit, if nobody in line would be late for it.
    ///
    /// # Errors
    ///
    /// When to try again.
    pub fn try_retry(&mut self, permit: &Permit, now: Instant) -> Result<(), Instant> {
        let now = self.advance(now);
        let Some(bucket) = &self.bucket else {
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
        Ok(())
    }

    /// What a fetch usually takes at most. A caller's deadline less this is its latest useful start.
    #[must_use]
    pub fn usual_fetch(&self, now: Instant) -> Duration {
        let now = nanos(now.saturating_duration_since(self.epoch)).max(self.latest);
        Duration::from_secs_f64(self.fetches.usual(now).min(86_400.0))
    }

    /// Lookups in line.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.line.queued()
    }

    /// What happened to lookups of `class`.
    #[must_use]
    pub fn counters(&self, class: Class) -> Counters {
        Counters {
            queued: self.line.queued_of(class as usize),
            ..self.counters[class as usize]
        }
    }

    /// Callers of `class` that have lookups in line.
    #[must_use]
    pub fn callers(&self, class: Class) -> u32 {
        self.line.callers_of(class as usize)
    }

    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        self.line.flows()
    }

    /// By when the request may be promised, or a refusal.
    fn decide(&mut self, request: &Request, now: u64, chance: f64) -> Result<u64, Refused> {
        let class = request.class as usize;
        let due = self.due(request, now);
        let held = self.returns[class].held(now);
        if self.line.queued() == 0 && self.capacity(now)(0) >= 1.0 {
            // Work-conserving: too late for this caller is early enough for who asks next.
            return Ok(due.max(now + AT_ONCE).min(self.calendar.last()));
        }
        let estimate = self.estimate(request, due, Some(held), now);
        let useless = request
            .latest_start
            .is_some_and(|latest| self.nanos(latest) < now);
        if estimate.is_good() && !useless {
            return Ok(due);
        }
        // With the place that is held for it, it may get in all the same.
        if !useless && self.returns[class].has_place(request.caller, now) {
            let with_place = self.estimate(request, due, None, now);
            if with_place.is_good() {
                self.returns[class].keep(request.caller);
                return Ok(due);
            }
        }
        self.counters[class].refused += 1;
        Err(self.come_again(class, request.caller, &estimate, now, chance))
    }

    /// When to come again: at a time that is the caller's own.
    fn come_again(
        &mut self,
        class: usize,
        caller: u64,
        estimate: &Estimate,
        now: u64,
        chance: f64,
    ) -> Refused {
        let turn = estimate.class_rate.recip();
        let wait = estimate.late.max(estimate.missing * turn).max(turn);
        let earliest = now + from_seconds(wait);
        let returns = &mut self.returns[class];
        let (at, reserved) = if self.line.has(class, caller) || returns.has(caller) {
            let round = turn * f64::from(self.line.callers_of(class).max(1));
            (
                returns.space(caller, earliest, from_seconds(round), now, chance),
                false,
            )
        } else {
            returns.reserve(caller, earliest, from_seconds(turn / RETURNING), now, chance)
        };
        Refused {
            retry_after: Duration::from_nanos(at.saturating_sub(now)),
            reserved,
        }
    }

    /// By when the request has to go out.
    fn due(&self, request: &Request, now: u64) -> u64 {
        let latest = request.latest_start.map_or(u64::MAX, |latest| self.nanos(latest));
        latest
            .clamp(now, now.saturating_add(self.longest_wait))
            .min(self.calendar.last())
    }

    /// Beside so many places that are held for others; `None` if one is held for this caller.
    fn estimate(&self, request: &Request, due: u64, held: Option<u32>, now: u64) -> Estimate {
        let class = request.class as usize;
        let capacity = self.capacity(now);
        let at_once = capacity(0).floor().max(0.0);
        let patience = due - now;
        let place = self.line.place(class, request.caller, request.connection);
        let class_rate = self.class_rate(class, now);
        let redeems = held.is_none();
        let held = f64::from(held.unwrap_or(0)).min(HELD * capacity(patience).max(0.0));
        // Those who are in line come again and again, and would pass who takes them for gone.
        let lasting = self.usual_callers[class] * f64::from(place.in_caller);
        let turns = f64::from(place.turns).max(lasting) + held - at_once;
        let in_time = self
            .calendar
            .room(class, due, now, guaranteed(), &capacity)
            .most();
        let mut needed = 1.0 + held;
        let mut patience_left = seconds(patience);
        if place.of_caller > 0 && !redeems {
            patience_left *= UNHURRIED;
            needed += (LEFT * capacity(patience)).max(1.0) + f64::from(place.of_caller) / GREED;
        }
        Estimate {
            late: turns.max(0.0) / class_rate - patience_left,
            missing: needed - in_time.min(self.room(class).most()),
            class_rate,
        }
    }

    /// Places in the queue that are left for one more of `class`.
    fn room(&self, class: usize) -> Room {
        let queued = |class| f64::from(self.line.queued_of(class));
        let kept = |class: usize| (guaranteed()[class] * self.places).floor();
        let others = (0..CLASSES).filter(|other| *other != class);
        let taken = others.map(|other| queued(other).max(kept(other))).sum::<f64>();
        Room {
            common: self.places - taken - queued(class),
            own: kept(class) - queued(class),
        }
    }

    /// How many lookups can begin within a time in nanoseconds from now, as far as rate and slots are known.
    fn capacity(&self, now: u64) -> impl Fn(u64) -> f64 + use<T> {
        let tokens = self
            .bucket
            .as_ref()
            .map_or(f64::INFINITY, |bucket| bucket.tokens(now));
        let rate = self.bucket.as_ref().map_or(0.0, TokenBucket::rate);
        let free = f64::from(self.fetches.free());
        let slots = SLOTS_IN_USE * self.fetches.rate(now);
        move |within| {
            let within = seconds(within);
            (tokens + rate * within).min(free + slots * within)
        }
    }

    /// Lookups of `class` that go out in a second while the classes that have lookups in line now go on having some.
    fn class_rate(&self, class: usize, now: u64) -> f64 {
        let slots = SLOTS_IN_USE * self.fetches.rate(now);
        let rate = self
            .bucket
            .as_ref()
            .map_or(slots, |bucket| bucket.rate().min(slots));
        let busy = (0..CLASSES).filter(|other| *other == class || self.line.queued_of(*other) > 0);
        let shares = busy.map(|other| Class::ALL[other].share()).sum::<f64>();
        rate * Class::ALL[class].share() / shares
    }

    /// A class that had nothing in line has not saved up turns meanwhile.
    fn wake(&mut self, class: usize) {
        if self.line.queued_of(class) == 0 {
            self.virtual_time[class] = self.virtual_time[class].max(self.current);
        }
    }

    /// The lookup that goes out next: the one whose turn it is, unless another would be late then.
    fn pick(&self, now: u64) -> Option<u32> {
        let busy = (0..CLASSES).filter(|class| self.line.queued_of(*class) > 0);
        let class = busy.min_by(|a, b| self.virtual_time[*a].total_cmp(&self.virtual_time[*b]))?;
        let index = self.line.front(class)?;
        let due = self.line.entry(index)?.due;
        if self.calendar.can_wait(due, now, self.capacity(now)) {
            return Some(index);
        }
        self.calendar.earliest()
    }

    fn start(&mut self, index: u32, now: u64) -> Next<T> {
        self.line.end_turn(index);
        let Some((ticket, entry)) = self.take_out(index) else {
            return Next::Idle;
        };
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now);
        }
        self.fetches.begin(now);
        let class = Class::ALL[entry.class];
        self.current = self.virtual_time[entry.class];
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

    /// Drops a lookup that is of no use any more. One that still is, since somebody joined it, is due again.
    fn expire(&mut self, index: u32, now: u64) -> Option<Next<T>> {
        let entry = self.line.entry_mut(index)?;
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
        let (ticket, entry) = self.take_out(index)?;
        self.counters[class].expired += 1;
        let estimate = Estimate {
            late: 0.0,
            missing: 0.0,
            class_rate: self.class_rate(class, now),
        };
        Some(Next::Expired {
            ticket,
            payload: entry.payload,
            refused: self.come_again(class, entry.caller, &estimate, now, 0.5),
        })
    }

    fn take_out(&mut self, index: u32) -> Option<(Ticket, Entry<T>)> {
        let (ticket, entry) = self.line.remove(index)?;
        self.calendar.remove(index, entry.class, entry.due);
        Some((ticket, entry))
    }

    /// Takes in that it is `now`.
    #[expect(clippy::cast_precision_loss, reason = "a weight")]
    fn advance(&mut self, now: Instant) -> u64 {
        let before = self.latest;
        self.latest = before.max(self.nanos(now));
        let passed = (self.latest - before) as f64;
        let weight = passed / (passed + self.longest_wait as f64 + 1.0);
        for (class, usual) in self.usual_callers.iter_mut().enumerate() {
            *usual += weight * (f64::from(self.line.callers_of(class)) - *usual);
        }
        // Moves the calendar on past what is empty, so that it has buckets for what is promised now.
        self.calendar.overdue(self.latest);
        self.latest
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch))
    }

    fn instant(&self, at: u64) -> Instant {
        let at = Duration::from_nanos(at);
        self.epoch.checked_add(at).unwrap_or(self.epoch)
    }
}

fn guaranteed() -> [f64; CLASSES] {
    Class::ALL.map(Class::guaranteed)
}

/// Far beyond the life of a process: half of what fits.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .min(u64::MAX / 2)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// At most a day.
fn from_seconds(seconds: f64) -> u64 {
    nanos(Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)))
}
