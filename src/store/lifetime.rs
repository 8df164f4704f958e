//! How long a store keeps names, and entries that are only failures. Pure: `now` is a parameter.
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

/// How long the channel of a name is kept: handles can move to another channel, but rarely do.
pub const NAME_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The lifetime of an entry that is only a failure, from `now` on. `None` if it has a success.
#[must_use]
pub fn failure_lifetime(known: &FeedEntry, now: Instant) -> Option<Duration> {
    if known.success.is_some() {
        return None;
    }
    let retry_at = known.failure.as_ref().map(|failure| failure.retry_at);
    let pause = retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    Some(
        pause
            .saturating_mul(2)
            .clamp(MIN_FAILURE_LIFETIME, MAX_FAILURE_LIFETIME),
    )
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        cache_entry::{CacheEntry, Failure, Success},
        upstream::UpstreamError,
        video::Channel,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(pause: Duration, now: Instant) -> Failure<UpstreamError> {
        Failure {
            error: UpstreamError::NotFound,
            at: now,
            retry_at: now + pause,
            streak: 1,
        }
    }

    #[test]
    fn a_failure_is_kept_for_twice_its_pause_within_bounds() {
        let now = Instant::now();
        for (pause, lifetime) in [(0, 1), (1, 2), (30, 60), (450, 900), (900, 900), (1 << 20, 900)] {
            let known = CacheEntry::failed(None, failed(Duration::from_secs(pause), now));
            assert_eq!(failure_lifetime(&known, now), Some(SECOND * lifetime), "{pause}");
        }
    }

    #[test]
    fn only_what_is_left_of_a_pause_counts() {
        let now = Instant::now();
        let known = CacheEntry::failed(None, failed(SECOND * 30, now));
        assert_eq!(failure_lifetime(&known, now + SECOND * 20), Some(SECOND * 20));
        assert_eq!(failure_lifetime(&known, now + SECOND * 40), Some(SECOND));
    }

    #[test]
    fn a_good_answer_is_not_bounded_by_its_failure() {
        let now = Instant::now();
        let id = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
        let success = Success {
            value: Arc::new(Channel::new(id, "A channel", vec![])),
            at: now,
            time: SystemTime::UNIX_EPOCH,
        };
        let known = CacheEntry::failed(Some(success), failed(SECOND, now));
        assert_eq!(failure_lifetime(&known, now), None);
    }
}
