//! The response metadata `cache-status`: how the cache answered a call, in the format of RFC 9211.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    latest::{CacheStatus, MissReason},
    video::Source,
};

/// The name of the header.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The value in response headers, if there is one.
#[must_use]
pub fn cache_status(headers: &HeaderMap) -> Option<&str> {
    headers.get(CACHE_STATUS)?.to_str().ok()
}

thread_local! {
    /// The `ttl` and the value of the last hit. Hits in quick succession have the same; formatting it takes a fiftieth of a hit's time.
    static LAST_HIT: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
}

/// Sets the header for one reply, whose answer comes from `source`.
pub(super) fn set(status: CacheStatus, source: Source, headers: &mut HeaderMap) {
    let detail = match source {
        Source::Feed => String::new(),
        other => format!("; detail={}", other.name()),
    };
    match status {
        CacheStatus::Hit { ttl } if source == Source::Feed => {
            if let Some(value) = hit(ttl) {
                headers.insert(CACHE_STATUS, value);
            }
        }
        CacheStatus::Hit { ttl } => insert(format!("plaque; hit; ttl={ttl}{detail}"), headers),
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
            insert(
                format!("plaque; fwd={reason}{collapsed}{status}{detail}"),
                headers,
            );
        }
    }
}

fn hit(ttl: i64) -> Option<HeaderValue> {
    LAST_HIT.with_borrow_mut(|last| match last {
        Some((last_ttl, value)) if *last_ttl == ttl => Some(value.clone()),
        _ => {
            let value = HeaderValue::try_from(format!("plaque; hit; ttl={ttl}")).ok()?;
            *last = Some((ttl, value.clone()));
            Some(value)
        }
    })
}

/// Sets the header for a batch: a hit if all replies were hits, and the numbers of both.
pub(super) fn set_batch(hits: usize, forwarded: usize, headers: &mut HeaderMap) {
    let result = if forwarded == 0 { "hit" } else { "fwd=miss" };
    insert(
        format!("plaque; {result}; detail=\"hit={hits} fwd={forwarded}\""),
        headers,
    );
}

/// Sets the header for a watch.
pub(super) fn set_watch(headers: &mut HeaderMap) {
    insert("plaque; detail=\"watch\"".into(), headers);
}

fn insert(text: String, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CACHE_STATUS, value);
    }
}
