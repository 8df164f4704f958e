//! A time as it is kept.

use std::time::{Duration, SystemTime};

/// A time, or none: nanoseconds since 1970, within 292 years before and after. Notifications have times to the nanosecond. No time is
/// less than any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// No time at all; as a time it would be in the year 1677.
    pub const NONE: Self = Self(i64::MIN);

    /// `time`, or none if it is more than 292 years from 1970.
    #[must_use]
    pub fn new(time: Option<SystemTime>) -> Self {
        let since = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).ok(),
            Err(before) => i64::try_from(before.duration().as_nanos())
                .ok()
                .map(|nanos| -nanos),
        };
        time.and_then(since).map_or(Self::NONE, Self)
    }

    /// `time`, or the nearest that there is.
    #[must_use]
    pub fn nearest(time: SystemTime) -> Self {
        match Self::new(Some(time)) {
            Self::NONE if time > SystemTime::UNIX_EPOCH => Self(i64::MAX),
            Self::NONE => Self(i64::MIN + 1),
            moment => moment,
        }
    }

    /// The time.
    #[must_use]
    pub fn time(self) -> Option<SystemTime> {
        let apart = Duration::from_nanos(self.0.unsigned_abs());
        match self {
            Self::NONE => None,
            Self(0..) => SystemTime::UNIX_EPOCH.checked_add(apart),
            Self(_) => SystemTime::UNIX_EPOCH.checked_sub(apart),
        }
    }

    /// Whether there is a time.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// The time `apart` before this one; the earliest that there is if there is none.
    #[must_use]
    pub fn before(self, apart: Duration) -> Self {
        let nanos = i64::try_from(apart.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// The time as a number, from which [`Self::from_nanos`] makes it again.
    #[must_use]
    pub fn to_nanos(self) -> i64 {
        self.0
    }

    /// The time of a number.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }
}

impl Default for Moment {
    fn default() -> Self {
        Self::NONE
    }
}
