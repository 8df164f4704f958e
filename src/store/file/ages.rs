//! Ages of entries, calculated from a wall clock that may be wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::store::codec::Since;

/// How the ages of entries are calculated.
pub struct Ages {
    /// The wall clock, by which entries are dated.
    pub wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    /// The age of an entry dated in the future, unless it was older when it was saved.
    pub unknown: Duration,
}

impl Ages {
    /// Uses the system's wall clock; `unknown` is the age of entries dated in the future.
    #[must_use]
    pub fn new(unknown: Duration) -> Self {
        let wall = Box::new(SystemTime::now);
        Self { wall, unknown }
    }

    /// The current date, in microseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        let since = (self.wall)().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// How long ago `saved` is.
    pub(super) fn since(&self, saved: u64) -> Since {
        match self.now().checked_sub(saved) {
            Some(since) => Since::Known(Duration::from_micros(since)),
            None => Since::Unknown {
                at_least: self.unknown,
            },
        }
    }
}
