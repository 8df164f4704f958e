//! How long a store keeps an entry that is only a failure. Pure: `now` is a parameter.
//!
//! An entry with a success is kept for as long as it may be served. One that is only a failure is kept until its pause is over, and for as
//! long again, so that the next failure continues the streak; at most for [`MAX_FAILURE_LIFETIME`].

use std::time::{Duration, Instant};

use super::FeedEntry;

/// The longest lifetime of a failure without a success: the longest pause of a channel that was never found. An upstream may ask for a
/// longer pause; the feed is then looked up before that is over.
pub const MAX_FAILURE_LIFETIME: Duration = Duration::from_mins(15);

/// The shortest: an entry saved when its pause is already over still ends the wait of other replicas, which load it once.
const MIN_FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// The lifetime of an entry that is only a failure, from `now` on. `None` if it has a success.
#[must_use]
pub fn failure_lifetime(entry: &FeedEntry, now: Instant) -> Option<Duration> {
    if entry.success.is_some() {
        return None;
    }
    let retry_at = entry.failure.as_ref().map(|failure| failure.retry_at);
    let pause = retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    Some(
        pause
            .saturating_mul(2)
            .clamp(MIN_FAILURE_LIFETIME, MAX_FAILURE_LIFETIME),
    )
}

#[cfg(test)]
mod tests;
