//! The unit of time in the dispatcher: nanoseconds since it was made.

use std::time::Duration;

/// Nanoseconds, at most half of what fits: longer than a process lives.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .min(u64::MAX / 2)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Nanoseconds, at most a day.
pub(super) fn from_seconds(seconds: f64) -> u64 {
    nanos(Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)))
}
