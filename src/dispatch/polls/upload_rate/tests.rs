use super::*;

const DAY: f64 = 86_400.0;

fn each_day(rate: f64) -> f64 {
    rate * DAY
}

#[test]
fn a_full_feed_tells_the_rate() {
    for (every, expected) in [(1.0 / 24.0, 24.0), (1.0, 1.0), (30.0, 1.0 / 30.0)] {
        let dates = (0..15).map(|number| Duration::from_secs_f64(DAY * every * f64::from(number)));
        let rate = each_day(from_ages(dates));
        assert!((0.9..1.1).contains(&(rate / expected)), "{rate} for {expected}");
    }
}

#[test]
fn time_without_uploads_makes_it_slower() {
    let after = |days: u32| {
        let dates = (0..15).map(|day| Duration::from_secs_f64(DAY * f64::from(day + days)));
        each_day(from_ages(dates))
    };
    assert!(after(0) > after(1) && after(1) > after(14));
    assert!((0.2..0.4).contains(&after(30)), "{}", after(30));
}

#[test]
fn few_dates_say_little() {
    assert!((from_ages([]) - PRIOR_RATE).abs() < 1e-12);
    // Two in an hour do not mean 24 a day yet.
    let hour = each_day(from_ages([Duration::ZERO, Duration::from_hours(1)]));
    assert!((5.0..30.0).contains(&hour), "{hour}");
    let year = each_day(from_ages([Duration::from_secs_f64(365.0 * DAY)]));
    assert!((0.001..0.05).contains(&year), "{year}");
}
