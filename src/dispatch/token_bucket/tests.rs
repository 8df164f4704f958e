use super::*;

const MILLIS: u64 = 1_000_000;

#[test]
fn a_burst_goes_at_once_and_then_one_an_interval() {
    let mut bucket = TokenBucket::new(20.0, 20.0);
    let now = 5_000 * MILLIS;
    for _ in 0..20 {
        assert_eq!(bucket.ready_at(now), now);
        bucket.take(now);
    }
    for late in 1..100 {
        let ready = bucket.ready_at(now);
        assert_eq!(ready - now, 50 * MILLIS * late);
        bucket.take(ready);
    }
    let later = now + 600_000 * MILLIS;
    assert!(
        (bucket.tokens(later) - 20.0).abs() < 1e-9,
        "no more than the burst"
    );
}

#[test]
fn what_is_in_it_stays_when_the_rate_changes() {
    let mut bucket = TokenBucket::new(20.0, 4.0);
    let now = 5_000 * MILLIS;
    for _ in 0..3 {
        bucket.take(now);
    }
    bucket.change(10.0, 3.0, now);
    assert!((bucket.tokens(now) - 1.0).abs() < 1e-6, "{}", bucket.tokens(now));
    bucket.take(now);
    assert_eq!(bucket.ready_at(now), now + 100 * MILLIS);
    // A debt survives the change.
    bucket.take(now);
    bucket.change(20.0, 2.0, now);
    assert_eq!(bucket.ready_at(now), now + 100 * MILLIS);
    bucket.change(20.0, 2.0, now + 60_000 * MILLIS);
    assert!((bucket.tokens(now + 60_000 * MILLIS) - 2.0).abs() < 1e-6);
}

#[test]
fn a_token_that_is_given_back_can_be_taken_again() {
    let mut bucket = TokenBucket::new(0.1, 0.01);
    bucket.take(0);
    assert_eq!(bucket.ready_at(0), 10_000 * MILLIS);
    bucket.give_back();
    assert_eq!(bucket.ready_at(0), 0, "a burst below one is one");
}
