//! How long a store needs to keep an entry. Pure: `now` is an argument.
//!
//! An entry with a good answer is kept for as long as the answer may be given. One that is only a failure matters until its pause is
//! over, and for as long again, so that the next failure continues the streak; never for longer than [`MAX_FAILURE_LIFETIME`].

use std::time::{Duration, Instant};

use super::Known;

/// The longest that a failure without a good answer is kept: as long as the longest pause of a channel that was never found. A pause
/// that an upstream asked for may be longer; the feed is then looked up again before its end.
pub const MAX_FAILURE_LIFETIME: Duration = Duration::from_mins(15);

/// The shortest: what is saved when its pause is over still ends the wait of other replicas, which load it once.
const MIN_FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// How long to keep what is only a failure, from `now` on. `None` if there is a good answer.
#[must_use]
pub fn failure_lifetime(known: &Known, now: Instant) -> Option<Duration> {
    if known.good.is_some() {
        return None;
    }
    let retry_at = known.failed.as_ref().map(|failed| failed.retry_at);
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
        let good = Success {
            value: Arc::new(Channel::new(id, "A channel", vec![])),
            at: now,
            time: SystemTime::UNIX_EPOCH,
        };
        let known = CacheEntry::failed(Some(good), failed(SECOND, now));
        assert_eq!(failure_lifetime(&known, now), None);
    }
}
