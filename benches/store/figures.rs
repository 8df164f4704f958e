//! Formats figures like `bench_server/report.py`.

/// The median, the minimum and the maximum.
pub fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let [least, .., most] = values[..] else {
        return values.first().map_or_else(String::new, |only| figure(*only));
    };
    let median = values[values.len() / 2];
    format!("{} ({} to {})", figure(median), figure(least), figure(most))
}

/// Three significant digits, or all digits before the point.
pub fn figure(value: f64) -> String {
    match value {
        100.0.. => {
            let digits = format!("{value:.0}");
            let groups: Vec<_> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(String::from_utf8_lossy)
                .collect();
            groups.join(",")
        }
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
