//! The response metadata `cache-status`: how an answer was made, in the terms of RFC 9211.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::latest::{CacheStatus, MissReason};

/// Where it is said.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What was said, if it was.
#[must_use]
pub fn cache_status(headers: &HeaderMap) -> Option<&str> {
    headers.get(CACHE_STATUS)?.to_str().ok()
}

/// Says how one answer was made.
pub(super) fn tell(made: CacheStatus, headers: &mut HeaderMap) {
    let text = match made {
        CacheStatus::Hit { ttl } => format!("plaque; hit; ttl={ttl}"),
        CacheStatus::Forwarded {
            reason,
            collapsed,
            status,
        } => {
            let reason = match reason {
                MissReason::NotCached => "uri-miss",
                MissReason::Stale => "stale",
                MissReason::Requested => "request",
            };
            let collapsed = if collapsed { "; collapsed" } else { "" };
            let status = status.map_or_else(String::new, |code| format!("; fwd-status={code}"));
            format!("plaque; fwd={reason}{collapsed}{status}")
        }
    };
    insert(text, headers);
}

/// Says how the answers of a batch were made, all together: a hit if all were, and how many of each.
pub(super) fn tell_batch(hits: usize, forwarded: usize, headers: &mut HeaderMap) {
    let what = if forwarded == 0 { "hit" } else { "fwd=miss" };
    insert(
        format!("plaque; {what}; detail=\"hit={hits} fwd={forwarded}\""),
        headers,
    );
}

/// Says that what follows is made as it comes.
pub(super) fn tell_watch(headers: &mut HeaderMap) {
    insert("plaque; detail=\"watch\"".into(), headers);
}

fn insert(text: String, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CACHE_STATUS, value);
    }
}
