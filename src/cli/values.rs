//! Parses the values of flags: human units in, types out, and errors that say what is expected.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use bytesize::ByteSize;
use http::{HeaderName, HeaderValue};

/// Longer than any sensible setting, and short enough to be added to any time without overflow.
const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

/// More than the cores of nearly all machines. So many take half a GiB, even if they are idle.
const MAX_THREADS: usize = 1024;

/// A duration such as `60s`, `1m 30s` or `7d`, from 0 to a year.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err("expected a duration of at most 365d".into()),
        Err(_) => Err("expected a duration with its unit, such as 500ms, 60s, 10m or 7d".into()),
    }
}

/// A duration that is not zero.
pub(super) fn time_limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration of more than 0, such as 10s".into()),
        limit => Ok(limit),
    }
}

/// Checks that the second of two flags is not less than the first.
pub(super) fn check_order(
    least: &str,
    at_least: Duration,
    most: &str,
    at_most: Duration,
) -> Result<(), String> {
    if at_least <= at_most {
        return Ok(());
    }
    let [at_least, at_most] = [at_least, at_most].map(humantime::format_duration);
    Err(format!(
        "{most} {at_most} is less than {least} {at_least}; expected at least as much"
    ))
}

/// A metadata key. Binary keys are refused, since their values cannot be written down.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    match text.parse::<HeaderName>() {
        Ok(name) if !name.as_str().ends_with("-bin") => Ok(name),
        _ => Err("expected the name of a header, such as l5d-client-id".into()),
    }
}

/// A user agent: visible ASCII characters with blanks between them.
pub(super) fn user_agent(text: &str) -> Result<HeaderValue, String> {
    let is_visible = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    match HeaderValue::from_str(text) {
        Ok(value) if is_visible && !text.is_empty() && text.trim() == text => Ok(value),
        _ => Err("expected visible ASCII characters, such as plaque/1.0 (+https://plaque.example)".into()),
    }
}

/// A number of bytes such as `256MiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "expected a size with its unit, such as 64MiB, 256MiB or 1GiB".into())
}

/// The maximum size of a message or of headers: from 1 KiB to 16 MiB.
pub(super) fn small_size(text: &str) -> Result<u32, String> {
    match bytes(text)?.try_into() {
        Ok(size @ 1024..=0x100_0000) => Ok(size),
        _ => Err("expected a size from 1KiB to 16MiB".into()),
    }
}

/// An integer from 1.
pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "expected a whole number of at least 1".into())
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= MAX_THREADS => Ok(threads),
        _ => Err(format!("expected a whole number from 1 to {MAX_THREADS}")),
    }
}

/// A number a second; 0 means no limit.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected a number a second, such as 20 or 0.5; 0 for no limit".into()),
    }
}

/// A number of units a day.
pub(super) fn units(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(units @ 1..=1_000_000_000) => Ok(units),
        _ => Err("expected a whole number of at least 1, such as 10000".into()),
    }
}

/// An IP address and a port.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, such as 127.0.0.1:3779, 0.0.0.0:3779 or [::]:3779".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        for bad in ["", "60", "-1s", "1parsec", "2years", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(time_limit("0s").is_err());
    }

    #[test]
    fn rates_are_numbers_from_zero() {
        assert_eq!(rate("0"), Ok(0.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["", "-1", "NaN", "inf", "20/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        for bad in ["", "MiB", "-1MiB", "1 parsec"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
