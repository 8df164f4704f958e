//! See [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use std::time::{Duration, SystemTime};

use super::response::parse_retry_after;
use crate::dispatch::breaker::MAX_PAUSE;

/// Fuzzes a `Retry-After` header. Its first four bytes are the time of receipt, in seconds since 1970.
pub fn retry_after(bytes: &[u8]) {
    let Some((now, value)) = bytes.split_first_chunk() else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u32::from_be_bytes(*now).into());
    let Ok(value) = str::from_utf8(value) else {
        return;
    };
    let asked = parse_retry_after(value, now);
    assert!(asked.is_none_or(|pause| pause <= MAX_PAUSE), "{asked:?}");

    let digits = value.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = digits.parse().unwrap_or(u64::MAX);
        assert_eq!(asked, Some(Duration::from_secs(seconds).min(MAX_PAUSE)));
    } else if let Ok(date) = httpdate::parse_http_date(digits) {
        let left = date.duration_since(now).unwrap_or_default();
        assert_eq!(asked, Some(left.min(MAX_PAUSE)));
        // HTTP dates have years of four digits.
        if date < SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 8000) {
            assert_eq!(
                parse_retry_after(&httpdate::fmt_http_date(date), now),
                asked,
                "the same date"
            );
        }
    } else {
        assert_eq!(asked, None, "{value:?} is neither a number nor a date");
    }
}
