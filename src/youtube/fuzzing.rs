//! See [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use std::time::{Duration, SystemTime};

use super::response::pause;
use crate::dispatch::breaker::LONGEST_PAUSE;

/// A `Retry-After`, after four bytes that say how many seconds after 1970 it is received.
pub fn retry_after(bytes: &[u8]) {
    let Some((now, value)) = bytes.split_first_chunk() else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u32::from_be_bytes(*now).into());
    let Ok(value) = str::from_utf8(value) else {
        return;
    };
    let asked = pause(value, now);
    assert!(asked.is_none_or(|pause| pause <= LONGEST_PAUSE), "{asked:?}");

    let digits = value.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = digits.parse().unwrap_or(u64::MAX);
        assert_eq!(asked, Some(Duration::from_secs(seconds).min(LONGEST_PAUSE)));
    } else if let Ok(date) = httpdate::parse_http_date(digits) {
        let left = date.duration_since(now).unwrap_or_default();
        assert_eq!(asked, Some(left.min(LONGEST_PAUSE)));
        // The year of a date has four digits.
        if date < SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 8000) {
            assert_eq!(pause(&httpdate::fmt_http_date(date), now), asked, "the same date");
        }
    } else {
        assert_eq!(asked, None, "{value:?} is neither a number nor a date");
    }
}
