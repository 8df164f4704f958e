use super::*;

const SECOND: u64 = 1_000_000_000;

fn is_near(left: f64, expected: f64) -> bool {
    (left - expected).abs() < 0.02 * expected
}

#[test]
fn what_callers_take_is_averaged_over_seconds() {
    let mut room = PollBudget::default();
    for second in 1..=60 {
        room.count(6 * second, second * SECOND);
    }
    assert!(is_near(room.taken, 6.0), "{}", room.taken);
    // A late call misses nothing; a batch is averaged over a quarter of a minute.
    room.count(6 * 120, 120 * SECOND);
    assert!(is_near(room.taken, 6.0), "{}", room.taken);
    room.count(6 * 121 + 100, 121 * SECOND);
    assert!((10.0..20.0).contains(&room.taken), "{}", room.taken);
    for second in 122..=180 {
        room.count(6 * 121 + 100, second * SECOND);
    }
    assert!(room.taken < 0.1, "{}", room.taken);
}

#[test]
fn polls_get_what_is_left_less_what_waits_and_never_less_than_their_share() {
    assert!(is_near(left(20.0, 0.0, 0), 20.0));
    assert!(is_near(left(20.0, 6.0, 0), 14.0));
    assert!(is_near(left(20.0, 6.0, 20), 10.0));
    assert!(is_near(left(20.0, 19.0, 0), 5.0));
    assert!(is_near(left(20.0, 0.0, 1000), 5.0));
}
