use super::*;

/// Admits `count` lines of a kind at `now`. Returns how many are logged.
fn logged(throttle: &mut Throttle<char, u64>, kind: char, now: Instant, count: u64) -> usize {
    let verdicts = (0..count).map(|number| throttle.admit(kind, now, || number));
    verdicts.filter(|verdict| *verdict == Verdict::Log).count()
}

#[test]
fn what_repeats_is_told_a_few_times_and_then_counted() {
    let (start, mut throttle) = (Instant::now(), Throttle::new());
    assert_eq!(throttle.next_due(), None);
    assert_eq!(logged(&mut throttle, 'a', start, 10_000), 5);
    assert_eq!(throttle.next_due(), Some(start + WINDOW));
    let before = start + WINDOW.mul_f64(0.999);
    assert_eq!(throttle.due(before), []);
    let first = Withheld {
        count: 9_995,
        sample: 5,
    };
    assert_eq!(throttle.due(start + WINDOW), [first]);
    assert_eq!(
        (throttle.due(start + WINDOW), throttle.next_due()),
        (vec![], None)
    );
}

#[test]
fn a_flood_that_goes_on_is_told_twice_in_a_window() {
    let (start, mut throttle) = (Instant::now(), Throttle::new());
    assert_eq!(logged(&mut throttle, 'a', start, 100), 5);
    for window in 1..100 {
        let now = start + WINDOW * window;
        assert_eq!(throttle.due(now).len(), 1, "{window}");
        assert_eq!(logged(&mut throttle, 'a', now, 100), 1, "{window}");
    }
    // Once it has ended, the kind starts afresh.
    let end = start + WINDOW * 100;
    assert_eq!(throttle.due(end).len(), 1);
    assert_eq!(logged(&mut throttle, 'a', end + WINDOW, 5), 5);
}

#[test]
fn kinds_are_counted_each_for_itself() {
    let (start, mut throttle) = (Instant::now(), Throttle::new());
    assert_eq!(logged(&mut throttle, 'a', start, 6), 5);
    let later = start + WINDOW / 2;
    assert_eq!(logged(&mut throttle, 'b', later, 7), 5);
    assert_eq!(throttle.due(start + WINDOW)[0].count, 1);
    assert_eq!(throttle.next_due(), Some(later + WINDOW));
    assert_eq!(throttle.due(later + WINDOW)[0].count, 2);
}

#[test]
fn what_is_seldom_is_told_in_full() {
    let (start, mut throttle) = (Instant::now(), Throttle::new());
    for window in 0..100 {
        assert_eq!(
            logged(&mut throttle, 'a', start + WINDOW * window, 5),
            5,
            "{window}"
        );
    }
    assert_eq!(throttle.next_due(), None);
}

#[test]
fn a_count_that_is_late_is_whole() {
    let (start, mut throttle) = (Instant::now(), Throttle::new());
    assert_eq!(logged(&mut throttle, 'a', start, 6), 5);
    assert_eq!(logged(&mut throttle, 'a', start + WINDOW * 2, 6), 0);
    assert_eq!(throttle.due(start + WINDOW * 3)[0].count, 7);
}
