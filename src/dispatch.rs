//! Which lookup goes out next: the budget of one source, handed out lookup by lookup.
//!
//! A lookup is *admitted* into the line or refused on arrival; in the line it belongs to a *class* and to a *flow* (a caller, and
//! a connection of that caller); when it goes out it holds a *permit*. Everything here is pure: the time and randomness are
//! arguments, nothing waits and nothing is locked. `docs/dispatch.md` tells how it decides, with what the simulations found.
//!
//! No crate fits the core. `governor` has the token bucket alone, without a way to give tokens back or to say when a caller behind
//! others will have one (here it is 60 lines); fair queues on crates.io wait inside, know no deadline, and do not lose a member
//! in O(1).

mod admission;
pub mod breaker;
mod calendar;
mod dispatcher;
mod fetch_time;
mod line;
pub mod polls;
mod returns;
mod rings;
mod room;
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
    /// It renews an answer that was given stale.
    Refresh,
    /// It is a watched channel's poll.
    Poll,
}

impl Class {
    /// All, in the order in which they are declared.
    pub const ALL: [Self; CLASSES] = [
        Self::AwaitedKnown,
        Self::AwaitedUnknown,
        Self::Refresh,
        Self::Poll,
    ];

    /// The part of the rate that it gets while all classes want theirs. Callers together get five eighths, and made-up channels
    /// less than real ones; a quarter keeps watches going through any overload.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::AwaitedKnown => 0.375,
            Self::AwaitedUnknown | Self::Poll => 0.25,
            Self::Refresh => 0.125,
        }
    }

    /// The part of the rate, and of the queue's places, that is never promised to other classes. Half of the share: the other
    /// half is lent when it is not wanted, and comes back within the longest wait.
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

/// What a source may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Lookups a second, on average; a positive number. `None`: as many as the slots let through.
    pub rate: Option<f64>,
    /// Lookups that may go out at once after a quiet time; at least one.
    pub burst: f64,
    /// Lookups under way at once.
    pub slots: NonZeroU32,
    /// Lookups in line.
    pub places: NonZeroU32,
    /// The longest that a lookup waits for its turn.
    pub max_queue_wait: Duration,
}

/// A lookup that wants its turn.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Why it is made.
    pub class: Class,
    /// Who asked for it, as a keyed hash: callers take turns.
    pub caller: u64,
    /// Over which connection, as a keyed hash: a caller's connections take the caller's turns in turn.
    pub connection: u64,
    /// When it is too late to begin: the caller's deadline less [`Dispatcher::usual_fetch`]. `None`: whenever its turn comes.
    pub latest_start: Option<Instant>,
}

/// Names a lookup in line. Tickets are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    index: u32,
    generation: u32,
}

/// A lookup that gets no turn in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it would get one. Until then it is of no use to come again.
    pub retry_after: Duration,
    /// A place is held free for its caller at that time.
    pub reserved: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Next<T> {
    /// Look it up.
    Start {
        /// The lookup's ticket, which is of no use any more.
        ticket: Ticket,
        /// What was handed in with it.
        payload: T,
        /// For how long it was in line.
        waited: Duration,
        /// To be handed to [`Dispatcher::finished`] or [`Dispatcher::return_unused`]. One that is lost is a slot that is lost.
        permit: Permit,
    },
    /// Tell its callers that it gets no turn: it is of no use any more. That happens if fetches have become much slower, or the
    /// budget much smaller, since it was admitted.
    Expired {
        /// The lookup's ticket, which is of no use any more.
        ticket: Ticket,
        /// What was handed in with it.
        payload: T,
        /// When to come again.
        refused: Refused,
    },
    /// Nothing until then, unless something is admitted or finished before.
    WaitUntil(Instant),
    /// Nothing until something is admitted.
    Idle,
}

/// The leave to look up once.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    class: Class,
    begun: u64,
}

impl Permit {
    /// The class in whose turn the lookup goes out.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }
}

/// What became of a lookup, as far as it says how long one takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The source answered, or its time was up.
    Completed,
    /// It ended early, for reasons of ours.
    Abandoned,
}

/// What happened to lookups of one class. All but `queued` only grow. Whatever was admitted is queued, or was started, cancelled, moved
/// or has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// In line now.
    pub queued: u32,
    /// Let into the line.
    pub admitted: u64,
    /// Not let in.
    pub refused: u64,
    /// Gone out.
    pub started: u64,
    /// Taken out of the line since nobody wanted them any more.
    pub cancelled: u64,
    /// Moved to another class, where they count as admitted.
    pub moved: u64,
    /// Dropped from the line since their turn did not come in time.
    pub expired: u64,
    /// Permits that came back unused; they count as started, too.
    pub returned: u64,
    /// Requests that were sent, second attempts included: what was used of the rate.
    pub sent: u64,
    /// Second attempts under the same permit, each of which took one more of the rate.
    pub retried: u64,
    /// The sum of the waits of those that have gone out.
    pub waited: Duration,
}
