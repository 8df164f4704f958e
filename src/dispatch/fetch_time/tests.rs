use super::*;

const SECOND: u64 = 1_000_000_000;

#[test]
fn it_follows_a_change_within_some_forty_fetches() {
    let mut estimate = FetchTime::new(4);
    let mut now = 0;
    for _ in 0..45 {
        estimate.begin(now);
        estimate.complete(now, now + 2 * SECOND);
        now += 2 * SECOND;
    }
    assert!((1.8..=2.01).contains(&estimate.mean(now)), "{estimate:?}");
    assert!((1.9..=2.6).contains(&estimate.usual(now)), "{estimate:?}");
}

#[test]
fn fetches_that_hang_are_noticed_before_they_end() {
    let mut estimate = FetchTime::new(4);
    for _ in 0..4 {
        assert!(estimate.mean(6 * SECOND) < 0.3, "a slot is free");
        estimate.begin(SECOND);
    }
    assert!((estimate.mean(6 * SECOND) - 5.0).abs() < 1e-6);
    assert!((estimate.rate(6 * SECOND) - 0.8).abs() < 1e-6);
    estimate.abandon();
    assert!(estimate.mean(6 * SECOND) < 0.3);
}
