//! The demo's table and histogram.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::crowd::Counts;

/// The upper bounds of the histogram's buckets, in milliseconds, around the origin's latency of 200.
const BUCKETS: [u64; 9] = [1, 3, 10, 30, 100, 200, 300, 1000, 3000];

const BAR: usize = 50;

/// How an act is told.
pub(super) struct Act {
    /// In the table.
    pub(super) title: &'static str,
    /// What happens, and what plaque makes of it.
    pub(super) sentence: &'static str,
    /// What it would come to if each caller sent a lookup, besides that number of lookups.
    pub(super) without: &'static str,
}

pub(super) struct Row {
    act: Act,
    counts: Counts,
    holds: bool,
}

impl Row {
    pub(super) fn new(act: Act, counts: Counts, holds: bool) -> Self {
        Self { act, counts, holds }
    }

    /// Whether the result is the expected one.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// What happened, what it took, and what it would have taken without plaque. Green is who was served, and nothing else.
    pub(super) fn verdict(&self, color: bool) -> String {
        let paint = |code: &str, text: String| {
            if color {
                format!("\u{1b}[{code}m{text}\u{1b}[0m")
            } else {
                text
            }
        };
        let Counts {
            callers,
            answered,
            lookups,
            ..
        } = self.counts;
        let mut outcome = vec![format!(
            "{} lookup{}",
            grouped(lookups),
            if lookups == 1 { "" } else { "s" }
        )];
        if answered > 0 {
            outcome.push(paint("32", format!("{} answered", grouped(answered))));
        }
        if !self.counts.errors.is_empty() {
            outcome.push(paint("33", self.errors()));
        }
        if !self.holds {
            outcome.push(paint("1;31", "which is NOT as it must be".to_owned()));
        }
        let separator = if self.act.without.is_empty() { "" } else { ", " };
        format!(
            "{}\n    {}. Without plaque: {} lookups{separator}{}.\n",
            paint("1", self.act.sentence.to_owned()),
            outcome.join(", "),
            grouped(callers),
            self.act.without,
        )
    }

    fn errors(&self) -> String {
        let errors = self.counts.errors.iter();
        let failed: Vec<_> = errors
            .map(|(why, count)| format!("{} {why}", grouped(*count)))
            .collect();
        failed.join(", ")
    }
}

/// The lookups and the callers of all acts.
pub(super) fn totals(rows: &[Row]) -> (usize, usize) {
    let sum = |of: fn(&Counts) -> usize| rows.iter().map(|row| of(&row.counts)).sum();
    (sum(|counts| counts.lookups), sum(|counts| counts.callers))
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "act",
        "callers",
        "answered",
        "failed",
        "lookups",
        "without plaque",
        "p50",
        "p99",
        "max",
    ]);
    for row in rows {
        let counts = &row.counts;
        table.add_row([
            row.act.title.to_owned(),
            grouped(counts.callers),
            grouped(counts.answered),
            row.errors(),
            grouped(counts.lookups),
            grouped(counts.callers),
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

    fn row(answered: usize, errors: usize, holds: bool) -> Row {
        let act = Act {
            title: "an act",
            sentence: "Something happens.",
            without: "",
        };
        let counts = Counts {
            callers: answered + errors,
            answered,
            lookups: 1,
            errors: (errors > 0)
                .then(|| ("DEADLINE".to_owned(), errors))
                .into_iter()
                .collect(),
            ..Counts::default()
        };
        Row::new(act, counts, holds)
    }

    #[test]
    fn only_served_callers_are_green() {
        let green = |row: Row| row.verdict(true).contains("\u{1b}[32m");
        assert!(green(row(1000, 0, true)));
        assert!(green(row(900, 100, true)));
        assert!(!green(row(0, 1000, true)), "expected, and yet nobody is served");
        assert!(row(0, 1000, false).verdict(true).contains("\u{1b}[1;31m"));
        assert_eq!(
            row(1900, 100, true).verdict(false),
            "Something happens.\n    1 lookup, 1,900 answered, 100 DEADLINE. Without plaque: 2,000 lookups.\n"
        );
    }

    #[test]
    fn thousands_are_grouped() {
        let numbers = [0, 7, 999, 1000, 12_345, 100_000, 1_234_567];
        assert_eq!(
            numbers.map(grouped),
            ["0", "7", "999", "1,000", "12,345", "100,000", "1,234,567"]
        );
    }

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
