//! The response metadata `cache-status`: how an answer was made, in the terms of RFC 9211.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::latest::{Made, Why};

const CACHE_STATUS: &str = "cache-status";

/// Says how one answer was made.
pub(super) fn tell(made: Made, metadata: &mut MetadataMap) {
    let text = match made {
        Made::Hit { ttl } => format!("plaque; hit; ttl={ttl}"),
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
            format!("plaque; fwd={why}{collapsed}{status}")
        }
    };
    insert(text, metadata);
}

/// Says how the answers of a batch were made, all together: a hit if all were, and how many of each.
pub(super) fn tell_batch(made: &[Made], metadata: &mut MetadataMap) {
    let hits = made
        .iter()
        .filter(|made| matches!(made, Made::Hit { .. }))
        .count();
    let forwarded = made.len() - hits;
    let what = if forwarded == 0 { "hit" } else { "fwd=miss" };
    insert(
        format!("plaque; {what}; detail=\"hit={hits} fwd={forwarded}\""),
        metadata,
    );
}

/// Says that what follows is made as it comes.
pub(super) fn tell_watch(metadata: &mut MetadataMap) {
    insert("plaque; detail=\"watch\"".into(), metadata);
}

fn insert(text: String, metadata: &mut MetadataMap) {
    if let Ok(value) = MetadataValue::try_from(text) {
        metadata.insert(CACHE_STATUS, value);
    }
}
