//! An optional time in eight bytes.

use std::time::{Duration, SystemTime};

/// A time or none: nanoseconds since 1970, up to 292 years before and after. [`NONE`](Self::NONE) is less than any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// No time. Its number would be a time in the year 1677.
    pub const NONE: Self = Self(i64::MIN);

    /// Converts `time`; [`NONE`](Self::NONE) if it is more than 292 years from 1970.
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

    /// Converts `time`, or the nearest time that can be represented.
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

    /// The time `apart` before this one, or the earliest that can be represented.
    #[must_use]
    pub fn before(self, apart: Duration) -> Self {
        let nanos = i64::try_from(apart.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// The time as a number, the inverse of [`Self::from_nanos`].
    #[must_use]
    pub fn to_nanos(self) -> i64 {
        self.0
    }

    /// The time for a number, the inverse of [`Self::to_nanos`].
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
