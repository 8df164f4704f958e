//! Counts the instructions that this program executes, with perf or valgrind, which run it as a child.

use std::{env, process::Command};

/// The instructions of one repetition of what this program does with `arguments` and a number of repetitions, and the tool that counted
/// them. `None` if no tool can count on this machine.
///
/// Computed from the difference of two runs, with `times` and ten times as many repetitions, so that start-up is not included.
pub fn difference(arguments: &[&str], times: u64) -> Option<(u64, &'static str)> {
    let program = env::current_exe().ok()?.to_str()?.to_owned();
    let count = |times: u64| {
        let mut command = vec![program.clone()];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command.push(times.to_string());
        count_with_perf(&command)
            .map(|count| (count, "perf"))
            .or_else(|| count_with_valgrind(&command).map(|count| (count, "valgrind")))
    };
    let (short, tool) = count(times)?;
    let (long, _tool) = count(times * 10)?;
    Some((long.saturating_sub(short) / (times * 9), tool))
}

fn count_with_perf(command: &[String]) -> Option<u64> {
    let perf = ["stat", "-x,", "-e", "instructions:u"];
    let perf = Command::new("perf").args(perf).args(command).output().ok()?;
    // count,unit,event,…; virtual machines often write `<not supported>` for the count.
    let report = String::from_utf8(perf.stderr).ok()?;
    let line = report.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.parse().ok()
}

fn count_with_valgrind(command: &[String]) -> Option<u64> {
    let valgrind = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let valgrind = Command::new("valgrind")
        .args(valgrind)
        .args(command)
        .output()
        .ok()?;
    // ==123== Collected : 456
    let report = String::from_utf8(valgrind.stderr).ok()?;
    let line = report.lines().find(|line| line.contains("Collected"))?;
    line.split_whitespace().next_back()?.parse().ok()
}
