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
        out_of_budget: false,
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
        let entry = CacheEntry::failed(None, failed(Duration::from_secs(pause), now));
        assert_eq!(failure_lifetime(&entry, now), Some(SECOND * lifetime), "{pause}");
    }
}

#[test]
fn only_what_is_left_of_a_pause_counts() {
    let now = Instant::now();
    let entry = CacheEntry::failed(None, failed(SECOND * 30, now));
    assert_eq!(failure_lifetime(&entry, now + SECOND * 20), Some(SECOND * 20));
    assert_eq!(failure_lifetime(&entry, now + SECOND * 40), Some(SECOND));
}

#[test]
fn a_good_answer_is_not_bounded_by_its_failure() {
    let now = Instant::now();
    let id = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
    let success = Success {
        value: Arc::new(Channel::new(id, "A channel", vec![])),
        at: now,
        time: SystemTime::UNIX_EPOCH,
        unlisted_since: None,
    };
    let entry = CacheEntry::failed(Some(success), failed(SECOND, now));
    assert_eq!(failure_lifetime(&entry, now), None);
}
