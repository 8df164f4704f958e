//! What the system says of this process, by the names that Prometheus' client libraries use. From /proc, so only on Linux.

use std::{fs, time::Duration};

use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use rustix::param::{clock_ticks_per_second, page_size};

/// Registers the metrics, if there is a /proc to read them from.
pub fn register(registry: &mut Registry) {
    if Stat::read().is_none() {
        return;
    }
    super::metric(
        registry,
        "process_cpu_seconds",
        "CPU time of the process, user and system",
        || ConstCounter::new(Stat::read().map_or(0.0, |stat| stat.cpu_seconds)),
    );
    super::metric(
        registry,
        "process_resident_memory_bytes",
        "Memory of the process that is resident",
        || ConstGauge::new(Stat::read().map_or(0, |stat| stat.resident_bytes)),
    );
    super::metric(
        registry,
        "process_start_time_seconds",
        "When the process started, as a Unix time",
        || ConstGauge::new(Stat::read().map_or(0.0, |stat| stat.started)),
    );
    super::metric(registry, "process_open_fds", "Open files of the process", || {
        // Reading the folder opens one.
        let files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
        ConstGauge::new(files as u64)
    });
    super::metric(
        registry,
        "process_max_fds",
        "How many files the process may have open",
        || ConstGauge::new(rlimit::Resource::NOFILE.get_soft().unwrap_or(0)),
    );
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: u64,
    /// Unix time, in seconds.
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        Self::parse(&stat, &system, clock_ticks_per_second(), page_size() as u64)
    }

    /// From proc(5)'s /proc/self/stat and /proc/stat.
    fn parse(stat: &str, system: &str, ticks_per_second: u64, page: u64) -> Option<Self> {
        // The name of the program, in parentheses, may have spaces and parentheses. The state is field 3.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| Duration::from_millis(ticks * 1000 / ticks_per_second).as_secs_f64();
        let booted = system.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            resident_bytes: field(24)? * page,
            started: booted.trim().parse::<f64>().ok()? + seconds(field(22)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let fields: Vec<_> = (4..=52).map(|field| (field * 100).to_string()).collect();
        let stat = format!("7 (a (odd) name) S {}\n", fields.join(" "));
        let stat = Stat::parse(&stat, "cpu 1 2\nbtime 1000\n", 100, 4096).expect("a stat");
        assert!((stat.cpu_seconds - 29.0).abs() < 1e-9, "{}", stat.cpu_seconds);
        assert!((stat.started - 1022.0).abs() < 1e-9, "{}", stat.started);
        assert_eq!(stat.resident_bytes, 2400 * 4096);
        assert!(Stat::parse("7 (plaque) S 1", "btime 1", 100, 4096).is_none());
    }
}
