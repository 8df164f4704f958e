//! What happened in one execution, and what may therefore not happen any more.
//!
//! Threads note when they began each operation and when it returned. In between, it took effect at a moment that cannot be observed:
//! the rules below hold whichever it was.

use std::time::Duration;

use crate::error::FlightError;

/// How a flight ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Value,
    Panic,
    TimeOut,
    /// Its task is dropped with the runtime.
    Dropped,
}

impl Ending {
    pub const ALL: [Self; 4] = [Self::Value, Self::Panic, Self::TimeOut, Self::Dropped];

    /// The outcome of flight `number`.
    pub fn outcome(self, number: usize) -> Result<usize, FlightError> {
        match self {
            Self::Value => Ok(number),
            Self::Panic => Err(FlightError::Panicked),
            // As many seconds as tell which flight it was.
            Self::TimeOut => Err(FlightError::TimedOut(Duration::from_secs(number as u64))),
            Self::Dropped => Err(FlightError::Aborted),
        }
    }
}

/// From when to when something was done.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: u64,
    /// `None`: it has not returned yet.
    pub to: Option<u64>,
}

impl Span {
    fn is_before(self, other: Self) -> bool {
        self.to.is_some_and(|to| to < other.from)
    }
}

#[derive(Debug)]
struct Past {
    key: u8,
    opened: Span,
    ended: Option<(Span, Ending)>,
}

#[derive(Debug, Default)]
pub struct History {
    now: u64,
    flights: Vec<Past>,
    detached: Vec<(u8, Span)>,
    /// When each admitted caller has left.
    left: Vec<Option<Span>>,
}

impl History {
    /// The next moment.
    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// What began at `from` has returned.
    pub fn since(&mut self, from: u64) -> Span {
        Span {
            from,
            to: Some(self.tick()),
        }
    }

    /// A flight was opened. No other may be there for its key.
    pub fn opened(&mut self, key: u8, opened: Span) -> usize {
        self.flights.push(Past {
            key,
            opened,
            ended: None,
        });
        let current: Vec<_> = self
            .flights
            .iter()
            .filter(|flight| flight.key == key && self.is_surely_current(flight))
            .collect();
        assert!(current.len() <= 1, "two flights for one key: {current:?}");
        self.flights.len() - 1
    }

    /// Whose flight that is.
    pub fn key(&self, number: usize) -> u8 {
        self.flights[number].key
    }

    /// Open, and out of reach of every detachment so far.
    fn is_surely_current(&self, flight: &Past) -> bool {
        flight.ended.is_none()
            && self
                .detached
                .iter()
                .all(|(key, span)| *key != flight.key || span.is_before(flight.opened))
    }

    fn is_surely_detached(&self, flight: &Past, before: Span) -> bool {
        self.detached
            .iter()
            .any(|(key, span)| *key == flight.key && flight.opened.is_before(*span) && span.is_before(before))
    }

    /// Flight `number` was asked whether it is current.
    pub fn found_current(&self, number: usize, asked: Span, current: bool) {
        let flight = &self.flights[number];
        if current {
            assert!(
                !self.is_surely_detached(flight, asked),
                "a detached flight is current: {flight:?}"
            );
        } else {
            assert!(
                !self.is_surely_current(flight),
                "a flight was taken out of the map by another: {flight:?}"
            );
        }
    }

    /// Flight `number` begins to end.
    pub fn ends(&mut self, number: usize, ending: Ending) {
        let from = self.tick();
        self.flights[number].ended = Some((Span { from, to: None }, ending));
    }

    pub fn ended(&mut self, number: usize) {
        let now = self.tick();
        if let Some((span, _)) = &mut self.flights[number].ended {
            span.to = Some(now);
        }
    }

    pub fn detaches(&mut self, key: u8) -> usize {
        let from = self.tick();
        self.detached.push((key, Span { from, to: None }));
        self.detached.len() - 1
    }

    pub fn detached(&mut self, index: usize) {
        let now = self.tick();
        self.detached[index].1.to = Some(now);
    }

    /// A caller was let in. Not more than `limit` may be.
    pub fn let_in(&mut self, limit: usize) -> usize {
        self.left.push(None);
        let waiting = self.left.iter().filter(|left| left.is_none()).count();
        assert!(waiting <= limit, "{waiting} wait, {limit} may");
        self.left.len() - 1
    }

    /// A caller begins to leave: from now on it may be counted or not.
    pub fn leaves(&mut self, caller: usize) {
        let from = self.tick();
        self.left[caller] = Some(Span { from, to: None });
    }

    pub fn left(&mut self, caller: usize) {
        let now = self.tick();
        if let Some(span) = &mut self.left[caller] {
            span.to = Some(now);
        }
    }

    /// A waiter for `key` that joined at `joined` got `outcome`; `own` is the flight that it had opened itself, if it did.
    pub fn received(&self, key: u8, joined: Span, own: Option<usize>, outcome: Result<usize, FlightError>) {
        let told_by = |(number, flight): (usize, &Past)| {
            let Some((ended, ending)) = flight.ended else {
                return false;
            };
            flight.key == key
                && own.is_none_or(|own| own == number)
                && !joined.is_before(flight.opened)
                && !ended.is_before(joined)
                && !self.is_surely_detached(flight, joined)
                && ending.outcome(number) == outcome
        };
        assert!(
            self.flights.iter().enumerate().any(told_by),
            "{outcome:?} for one that joined {own:?} at {joined:?}: {self:?}"
        );
    }
}
