//! The demo's table and histogram.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::crowd::Counts;

/// The upper bounds of the histogram's buckets, in milliseconds, around the origin's latency of 200.
const BUCKETS: [u64; 9] = [1, 3, 10, 30, 100, 200, 300, 1000, 3000];

const BAR: usize = 50;

pub(super) struct Row {
    title: &'static str,
    counts: Counts,
    holds: bool,
}

impl Row {
    pub(super) fn new(title: &'static str, counts: Counts, holds: bool) -> Self {
        Self { title, counts, holds }
    }

    /// Whether the result is the expected one.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn verdict(&self, colour: bool) -> String {
        let verdict = match (self.holds, colour) {
            (true, true) => "\u{1b}[32mok\u{1b}[0m    ",
            (true, false) => "ok    ",
            (false, true) => "\u{1b}[31mFAILED\u{1b}[0m",
            (false, false) => "FAILED",
        };
        let errors = self.errors();
        let (title, counts) = (self.title, &self.counts);
        format!(
            "{verdict} {title}: {} callers, {} upstream lookup(s), {} answered{}{errors}",
            counts.callers,
            counts.lookups,
            counts.answered,
            if errors.is_empty() { "" } else { ", " },
        )
    }

    fn errors(&self) -> String {
        let errors = self.counts.errors.iter();
        let failed: Vec<_> = errors.map(|(why, count)| format!("{count} {why}")).collect();
        failed.join(", ")
    }
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "act", "callers", "answered", "failed", "lookups", "p50", "p99", "max",
    ]);
    for row in rows {
        let counts = &row.counts;
        table.add_row([
            row.title.to_owned(),
            counts.callers.to_string(),
            counts.answered.to_string(),
            row.errors(),
            counts.lookups.to_string(),
            milliseconds(quantile(&counts.waits, 50)),
            milliseconds(quantile(&counts.waits, 99)),
            milliseconds(quantile(&counts.waits, 100)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The waits of all callers of all acts.
pub(super) fn histogram(rows: &[Row]) -> String {
    let mut counts = [0_usize; BUCKETS.len() + 1];
    for wait in rows.iter().flat_map(|row| &row.counts.waits) {
        let bucket = BUCKETS.partition_point(|end| Duration::from_millis(*end) < *wait);
        counts[bucket] += 1;
    }
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let mut text = String::from("how long callers waited, all acts:\n");
    for (bucket, count) in counts.into_iter().enumerate() {
        let label = match BUCKETS.get(bucket) {
            Some(end) => format!("≤ {end} ms"),
            None => format!("> {} ms", BUCKETS[BUCKETS.len() - 1]),
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{label:>10} {count:>5} {}",
            "█".repeat((count * BAR).div_ceil(most))
        );
    }
    text
}

/// The smallest wait that `percent` of the callers did not exceed. `waits` is sorted.
fn quantile(waits: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (waits.len() * percent).div_ceil(100);
    waits.get(rank.saturating_sub(1)).copied()
}

fn milliseconds(wait: Option<Duration>) -> String {
    wait.map_or_else(
        || "–".into(),
        |wait| format!("{:.1} ms", wait.as_secs_f64() * 1e3),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_wait_that_somebody_had() {
        let waits: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&waits, 50), Some(Duration::from_millis(100)));
        assert_eq!(quantile(&waits, 99), Some(Duration::from_millis(198)));
        assert_eq!(quantile(&waits, 100), Some(Duration::from_millis(200)));
        assert_eq!(quantile(&waits[..1], 50), Some(Duration::from_millis(1)));
        assert_eq!(quantile(&[], 50), None);
    }
}
