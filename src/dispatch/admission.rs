//! Admission: decides on arrival whether a lookup will go out in time, and if not, when to retry.

use std::time::Duration;

use super::{
    CLASSES, Class, Dispatcher, Refused, Request,
    calendar::Headroom,
    nanos::{from_seconds, seconds},
    token_bucket::TokenBucket,
};

/// A caller that has queued lookups already may add one only if it will go out within this part of its wait. The rest is left to callers
/// without queued lookups, and to variation: other arrivals, reservations, slower fetches. A queue in which every lookup is urgent would be
/// served in order of urgency, and fairly to nobody.
const NON_URGENT_PART: f64 = 0.6;

/// Likewise, the part of the queue's places that is left to callers without queued lookups, which matters if the queue is short. Also the
/// part of the lookups in time: what is guaranteed to other classes can make those fewer than the wait alone would.
const NEWCOMER_PART: f64 = 0.1;

/// The most places, as a part of those that could be promised, that are held for returning callers, so that the source is not idle if none
/// of them returns.
const MAX_HELD_PART: f64 = 0.5;

/// The part of a class's rate that reservations get. The rest is for new callers.
const RETURNING_PART: f64 = 0.9;

/// A lookup that can go out at once is due this much later, in nanoseconds: it takes the owner some time to start it.
const START_GRACE: u64 = 100_000_000;

/// What an admitted request could expect.
struct Estimate {
    /// By how many seconds its wait would be too long. Negative: it is short enough.
    late: f64,
    /// How many places are missing. Negative: there are enough.
    missing: f64,
    class_rate: f64,
}

impl Estimate {
    fn is_admissible(&self) -> bool {
        self.late <= 0.0 && self.missing <= 0.0
    }
}

impl<T> Dispatcher<T> {
    /// When the request can be promised to go out, or a refusal.
    pub(super) fn decide(&mut self, request: &Request, now: u64, chance: f64) -> Result<u64, Refused> {
        let class = request.class as usize;
        let due = self.due(request, now);
        let held = self.reservations[class].held(now);
        if self.queue.queued() == 0 && self.capacity(now)(0) >= 1.0 {
            // Work-conserving: what is too late for this caller is cached for the next.
            return Ok(due.max(now + START_GRACE).min(self.calendar.last()));
        }
        let estimate = self.estimate(request, due, Some(held), now);
        let too_late = request
            .latest_start
            .is_some_and(|latest| self.nanos(latest) < now);
        if estimate.is_admissible() && !too_late {
            return Ok(due);
        }
        // It may use the place that is held for it.
        if !too_late && self.reservations[class].can_redeem(request.caller, now) {
            let with_place = self.estimate(request, due, None, now);
            if with_place.is_admissible() {
                self.reservations[class].redeem(request.caller);
                return Ok(due);
            }
        }
        self.counters[class].refused += 1;
        Err(self.refuse(class, request.caller, &estimate, now, chance))
    }

    /// The refusal, with a time to retry that differs between callers.
    fn refuse(&mut self, class: usize, caller: u64, estimate: &Estimate, now: u64, chance: f64) -> Refused {
        let turn = estimate.class_rate.recip();
        let wait = estimate.late.max(estimate.missing * turn).max(turn);
        let earliest = now + from_seconds(wait);
        let reservations = &mut self.reservations[class];
        let (at, reserved) = if self.queue.has_caller(class, caller) || reservations.has(caller) {
            let round = turn * f64::from(self.queue.callers_of(class).max(1));
            (
                reservations.space_out(caller, earliest, from_seconds(round), now, chance),
                false,
            )
        } else {
            reservations.reserve(caller, earliest, from_seconds(turn / RETURNING_PART), now, chance)
        };
        Refused {
            retry_after: Duration::from_nanos(at.saturating_sub(now)),
            reserved,
        }
    }

    /// The refusal of a lookup that was admitted but expired.
    pub(super) fn refuse_expired(&mut self, class: usize, caller: u64, now: u64) -> Refused {
        let estimate = Estimate {
            late: 0.0,
            missing: 0.0,
            class_rate: self.class_rate(class, now),
        };
        self.refuse(class, caller, &estimate, now, 0.5)
    }

    /// When the request has to go out.
    pub(super) fn due(&self, request: &Request, now: u64) -> u64 {
        let latest = request.latest_start.map_or(u64::MAX, |latest| self.nanos(latest));
        latest
            .clamp(now, now.saturating_add(self.longest_wait))
            .min(self.calendar.last())
    }

    /// The estimate for a request while `held` places are held for others; `None` if one is held for this caller.
    fn estimate(&self, request: &Request, due: u64, held: Option<u32>, now: u64) -> Estimate {
        let class = request.class as usize;
        let capacity = self.capacity(now);
        let at_once = capacity(0).floor().max(0.0);
        let patience = due - now;
        let position = self.queue.position(class, request.caller, request.connection);
        let class_rate = self.class_rate(class, now);
        let redeems = held.is_none();
        let held = f64::from(held.unwrap_or(0)).min(MAX_HELD_PART * capacity(patience).max(0.0));
        // Callers seen lately will return and take turns too, although they have nothing queued now.
        let usual = self.usual_callers[class] * f64::from(position.in_caller);
        let turns = f64::from(position.turns).max(usual) + held - at_once;
        let mut in_time = self
            .calendar
            .headroom(class, due, now, guaranteed(), &capacity)
            .most();
        let mut in_places = self.headroom(class).most();
        let mut patience_left = seconds(patience);
        if position.of_caller > 0 && !redeems {
            // New connections of such a caller may use half of the places left to other callers.
            let margin = if position.of_connection > 0 { 1.0 } else { 0.5 };
            patience_left *= NON_URGENT_PART;
            in_time -= (margin * NEWCOMER_PART * capacity(patience)).max(1.0);
            in_places -= (margin * NEWCOMER_PART * self.places).max(1.0);
        }
        Estimate {
            late: turns.max(0.0) / class_rate - patience_left,
            missing: 1.0 + held - in_time.min(in_places),
            class_rate,
        }
    }

    /// Places in the queue for one more lookup of `class`.
    fn headroom(&self, class: usize) -> Headroom {
        let queued = |class| f64::from(self.queue.queued_of(class));
        let kept = |class: usize| (guaranteed()[class] * self.places).floor();
        let others = (0..CLASSES).filter(|other| *other != class);
        let taken = others.map(|other| queued(other).max(kept(other))).sum::<f64>();
        Headroom {
            common: self.places - taken - queued(class),
            own: kept(class) - queued(class),
        }
    }

    /// Returns a function: how many lookups can start within a time in nanoseconds from now, by rate and slots.
    pub(super) fn capacity(&self, now: u64) -> impl Fn(u64) -> f64 + use<T> {
        let tokens = self
            .bucket
            .as_ref()
            .map_or(f64::INFINITY, |bucket| bucket.tokens(now));
        let rate = self.bucket.as_ref().map_or(0.0, TokenBucket::rate);
        let free = f64::from(self.fetches.free());
        let slots = self.fetches.promised_rate(now);
        move |within| {
            let within = seconds(within);
            (tokens + rate * within).min(free + slots * within)
        }
    }

    /// Lookups of `class` that go out per second while the classes that are queued now stay active.
    pub(super) fn class_rate(&self, class: usize, now: u64) -> f64 {
        let slots = self.fetches.promised_rate(now);
        let rate = self
            .bucket
            .as_ref()
            .map_or(slots, |bucket| bucket.rate().min(slots));
        let busy = (0..CLASSES).filter(|other| *other == class || self.queue.queued_of(*other) > 0);
        let shares = busy.map(|other| Class::ALL[other].share()).sum::<f64>();
        rate * Class::ALL[class].share() / shares
    }
}

fn guaranteed() -> [f64; CLASSES] {
    Class::ALL.map(Class::guaranteed)
}
