//! The response metadata `cache-status`: how an answer was made, in the terms of RFC 9211.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::latest::{Made, Why};

/// Where it is said.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What was said, if it was.
#[must_use]
pub fn cache_status(headers: &HeaderMap) -> Option<&str> {
    headers.get(CACHE_STATUS)?.to_str().ok()
}

thread_local! {
    /// The last hit's `ttl` and its text. Most answers of a moment have the same; to format it is a fiftieth of what a hit costs.
    static LAST_HIT: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
}

/// Says how one answer was made.
pub(super) fn tell(made: Made, headers: &mut HeaderMap) {
    match made {
        Made::Hit { ttl } => {
            if let Some(value) = hit(ttl) {
                headers.insert(CACHE_STATUS, value);
            }
        }
        Made::Forwarded {
            why,
            collapsed,
            status,
        } => {
            let why = match why {
                Why::Unknown => "uri-miss",
                Why::Stale => "stale",
                Why::Requested => "request",
            };
            let collapsed = if collapsed { "; collapsed" } else { "" };
            let status = status.map_or_else(String::new, |code| format!("; fwd-status={code}"));
            insert(format!("plaque; fwd={why}{collapsed}{status}"), headers);
        }
    }
}

fn hit(ttl: i64) -> Option<HeaderValue> {
    LAST_HIT.with_borrow_mut(|last| match last {
        Some((of, value)) if *of == ttl => Some(value.clone()),
        _ => {
            let value = HeaderValue::try_from(format!("plaque; hit; ttl={ttl}")).ok()?;
            *last = Some((ttl, value.clone()));
            Some(value)
        }
    })
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
