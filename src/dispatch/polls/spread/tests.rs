use super::*;

fn spread(importances: &[f64], budget: f64) -> Vec<f64> {
    let mut histogram = Histogram::new();
    // Removed channels leave nothing behind.
    histogram.add(0.3);
    for importance in importances {
        histogram.add(*importance);
    }
    histogram.remove(0.3);
    let spread = histogram.spread(budget, 60.0, 3600.0);
    importances
        .iter()
        .map(|importance| spread.interval(*importance))
        .collect()
}

#[test]
fn intervals_are_inverse_to_importance_and_use_the_budget() {
    let intervals = spread(&[0.01, 0.02, 0.04], 0.01);
    assert!((intervals[0] / intervals[1] - 2.0).abs() < 1e-6, "{intervals:?}");
    assert!((intervals[1] / intervals[2] - 2.0).abs() < 1e-6, "{intervals:?}");
    let used: f64 = intervals.iter().map(|interval| interval.recip()).sum();
    assert!((used - 0.01).abs() < 1e-5, "{used}");
}

#[test]
fn limits_hold_and_what_they_leave_is_spent_on_the_others() {
    let intervals = spread(&[1e-9, 0.01, 0.02, 100.0], 0.02);
    assert!((intervals[0] - 3600.0).abs() < 1e-6, "{intervals:?}");
    assert!((intervals[3] - 60.0).abs() < 1e-6, "{intervals:?}");
    let used: f64 = intervals.iter().map(|interval| interval.recip()).sum();
    assert!((used - 0.02).abs() < 1e-5, "{used}");
}

#[test]
fn with_room_for_all_everyone_gets_the_shortest() {
    assert!(
        spread(&[1e-9, 0.1], 1.0)
            .iter()
            .all(|interval| (interval - 60.0).abs() < 1e-9)
    );
}

#[test]
fn with_too_little_for_the_longest_a_fifth_still_goes_by_importance() {
    // A thousand without importance, at the longest interval, would alone take 0.28 a second.
    let mut importances = vec![1e-9; 1000];
    importances.push(0.01);
    let intervals = spread(&importances, 0.05);
    assert!(
        intervals[0] > 3600.0 && intervals[1000] < 120.0,
        "{} {}",
        intervals[0],
        intervals[1000]
    );
    let used: f64 = intervals.iter().map(|interval| interval.recip()).sum();
    assert!((used - 0.05).abs() < 0.001 || intervals[1000] < 60.1, "{used}");
}
