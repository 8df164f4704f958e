//! System calls that this program makes, counted by strace, which runs it as a child.

use std::{env, process::Command};

/// How many system calls a hundred of the things take that this program does when it is called with `arguments` and a number of times.
/// `None` where strace cannot count.
///
/// The difference of a run of `times` and one of ten times as many: it has no start-up in it.
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
        // The last line but an empty one: `  1234 total`, of all rows.
        let total = report.lines().rev().find(|line| line.contains("total"))?;
        total.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (short, long) = (count(times)?, count(times * 10)?);
    Some(long.saturating_sub(short) * 100 / (times * 9))
}
