//! Schedules lookups at one source within its budget of rate and concurrency.
//!
//! A lookup is *admitted* to the queue or refused on arrival. In the queue it belongs to a *class* and to a *flow* (a caller, and one of
//! its connections). It goes out with a *permit*. Everything here is pure: time and randomness are parameters, nothing waits and nothing is
//! locked. `docs/dispatch.md` describes the decisions, and what simulations of them showed.
//!
//! No crate fits the core. `governor` has only the token bucket; it cannot take tokens back, or tell a queued caller when it will have one.
//! Fair queues on crates.io wait inside, know no deadlines, and cannot remove a member in O(1).

mod admission;
pub mod breaker;
mod calendar;
mod dispatcher;
mod fair_queue;
mod fetch_time;
mod nanos;
mod poll_budget;
pub mod polls;
mod reservations;
mod rings;
mod selection;
mod token_bucket;

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "statistics of small numbers")]
mod tests;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

pub use self::dispatcher::Dispatcher;

/// The number of classes.
const CLASSES: usize = 4;

/// Why a lookup is made. Each class has a share of the budget, and may use what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A caller waits for a channel that was found before.
    AwaitedKnown,
    /// A caller waits for a channel that was never found.
    AwaitedUnknown,
    /// It revalidates an entry that was served stale.
    Refresh,
    /// It polls a watched channel.
    Poll,
}

impl Class {
    /// All classes, in order of declaration.
    pub const ALL: [Self; CLASSES] = [
        Self::AwaitedKnown,
        Self::AwaitedUnknown,
        Self::Refresh,
        Self::Poll,
    ];

    /// The part of the rate that the class gets while all classes have demand. Callers together get five eighths, made-up channels less
    /// than real ones; a quarter keeps watches going during any overload.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::AwaitedKnown => 0.375,
            Self::AwaitedUnknown | Self::Poll => 0.25,
            Self::Refresh => 0.125,
        }
    }

    /// The part of the rate, and of the queue's places, that is never promised to other classes: half of the share. The other half is lent
    /// while it is not needed, and comes back within the longest wait.
    #[must_use]
    pub fn guaranteed(self) -> f64 {
        self.share() / 2.0
    }

    /// Whether a caller waits.
    #[must_use]
    pub fn is_awaited(self) -> bool {
        matches!(self, Self::AwaitedKnown | Self::AwaitedUnknown)
    }
}

/// The limits of a source.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Lookups a second, on average; a positive number. `None`: limited only by the slots.
    pub rate: Option<f64>,
    /// The size of the token bucket; at least one.
    pub burst: f64,
    /// The most concurrent lookups.
    pub slots: NonZeroU32,
    /// The most queued lookups.
    pub places: NonZeroU32,
    /// The longest time in the queue.
    pub max_queue_wait: Duration,
}

/// A lookup to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its class.
    pub class: Class,
    /// A keyed hash of the caller. Callers take turns.
    pub caller: u64,
    /// A keyed hash of the connection. A caller's connections take turns within the caller's turns.
    pub connection: u64,
    /// The latest useful start: the caller's deadline minus [`Dispatcher::usual_fetch`]. `None`: any time.
    pub latest_start: Option<Instant>,
}

/// Identifies a queued lookup. Tickets are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    index: u32,
    generation: u32,
}

/// A lookup that would not go out in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it would. An earlier retry is useless.
    pub retry_after: Duration,
    /// A place is reserved for its caller at that time.
    pub reserved: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Next<T> {
    /// Start this lookup.
    Start {
        /// Its ticket, which is now invalid.
        ticket: Ticket,
        /// The value passed with it.
        payload: T,
        /// Its time in the queue.
        waited: Duration,
        /// Pass it to [`Dispatcher::finished`] or [`Dispatcher::return_unused`]. A lost permit is a lost slot.
        permit: Permit,
    },
    /// Fail this lookup: it can no longer be of use. That happens if fetches have become much slower, or the budget much smaller, since it
    /// was admitted.
    Expired {
        /// Its ticket, which is now invalid.
        ticket: Ticket,
        /// The value passed with it.
        payload: T,
        /// When to retry.
        refused: Refused,
    },
    /// Wait until then, or until something is admitted or finished.
    WaitUntil(Instant),
    /// Wait until something is admitted.
    Idle,
}

/// Permission for one lookup.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    class: Class,
    begun: u64,
}

impl Permit {
    /// The class whose turn the lookup uses.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }
}

/// The outcome of a lookup, as far as it says how long one takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The source answered, or the lookup timed out.
    Completed,
    /// It ended early, for reasons of plaque's own.
    Abandoned,
}

/// Counts of one class's lookups. All but `queued` only grow. Each admitted lookup is queued, or was started, cancelled, moved or expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Queued now.
    pub queued: u32,
    /// Admitted to the queue.
    pub admitted: u64,
    /// Refused on arrival.
    pub refused: u64,
    /// Started.
    pub started: u64,
    /// Removed since no caller waits any more.
    pub cancelled: u64,
    /// Moved to another class, where they count as admitted.
    pub moved: u64,
    /// Removed since they would be too late.
    pub expired: u64,
    /// Permits returned unused; also counted as started.
    pub returned: u64,
    /// Requests sent, including retries: what was used of the rate.
    pub sent: u64,
    /// Retries under the same permit, each of which took one more token.
    pub retried: u64,
    /// The sum of the waits of started lookups.
    pub waited: Duration,
}
