//! Prometheus' text format 0.0.4, from OpenMetrics' text. They differ in the names of families: in the older format the families of counters
//! and of information end like their samples, `_total` and `_info`, and there is neither the type `info` nor a unit.

/// The same metrics in the older format. `text` is prometheus-client's: comments, then samples, one in a line.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    // HELP comes before TYPE, and so before it is clear what the family is called.
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap_or((family, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                plain.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            plain.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            plain.extend([line, "\n"]);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::from_open_metrics;

    #[test]
    fn families_are_named_for_their_samples() {
        let open = "\
# HELP plaque_polls Polls.
# TYPE plaque_polls counter
plaque_polls_total 3
# HELP took_seconds How long.
# TYPE took_seconds histogram
# UNIT took_seconds seconds
took_seconds_sum 0.5
# HELP plaque_build Version.
# TYPE plaque_build info
plaque_build_info{version=\"1 # 2\"} 1
# TYPE calls gauge
calls 1
# EOF
";
        let plain = "\
# HELP plaque_polls_total Polls.
# TYPE plaque_polls_total counter
plaque_polls_total 3
# HELP took_seconds How long.
# TYPE took_seconds histogram
took_seconds_sum 0.5
# HELP plaque_build_info Version.
# TYPE plaque_build_info gauge
plaque_build_info{version=\"1 # 2\"} 1
# TYPE calls gauge
calls 1
";
        assert_eq!(from_open_metrics(open), plain);
    }
}
