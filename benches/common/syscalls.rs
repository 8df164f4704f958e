//! Counts the system calls that this program makes, with strace, which runs it as a child.

use std::{env, process::Command};

/// The system calls of a hundred repetitions of what this program does with `arguments` and a number of repetitions. `None` if strace
/// cannot count.
///
/// Computed from the difference of two runs, with `times` and ten times as many repetitions, so that start-up is not included.
pub fn of_a_hundred(arguments: &[&str], times: u64) -> Option<u64> {
    let count = |times: u64| {
        let strace = ["-f", "-c", "-U", "calls"];
        let mut command = Command::new("strace");
        command
            .args(strace)
            .arg(env::current_exe().ok()?)
            .args(arguments)
            .arg(times.to_string());
        let report = String::from_utf8(command.output().ok()?.stderr).ok()?;
        // The last line that is not empty: `  1234 total`.
        let total = report.lines().rev().find(|line| line.contains("total"))?;
        total.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (short, long) = (count(times)?, count(times * 10)?);
    Some(long.saturating_sub(short) * 100 / (times * 9))
}
