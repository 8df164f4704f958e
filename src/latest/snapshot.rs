//! What two snapshots of one feed say about each other. Pure.
//!
//! YouTube serves a feed from several caches, and now and then an older snapshot, or an empty one, comes after a newer one.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::video::{Channel, Kind, Video, VideoId};

/// Both kinds of uploads.
const KINDS: [Kind; 2] = [Kind::Video, Kind::Short];

/// Whether `new` may be older than `known`, or wrong, although it came later: it is empty and `known` is not, or it lacks the newest
/// upload known and what both show went back.
///
/// Neither sign is enough alone. The newest upload may have been deleted; and while it shows, counts may go back: in a series of 89
/// real snapshots, one upload's views went back by a few in 10 of the 88 steps, mostly while others went forward.
pub(super) fn is_suspect(new: &Channel, known: &Channel) -> bool {
    let Some(newest) = known.upload(0) else {
        return false;
    };
    let shown: HashMap<VideoId, Video<'_>> = new.uploads().map(|upload| (upload.id(), upload)).collect();
    if shown.is_empty() {
        return true;
    }
    !shown.contains_key(&newest.id()) && went_back(&shown, known)
}

/// Whether any upload that both show was changed later in `known`, or all of them had more views together.
fn went_back(shown: &HashMap<VideoId, Video<'_>>, known: &Channel) -> bool {
    // Sums of up to 15 counts.
    let (mut views, mut views_before) = (0_u128, 0_u128);
    for before in known.uploads() {
        let Some(upload) = shown.get(&before.id()) else {
            continue;
        };
        if let (Some(is), Some(was)) = (upload.updated(), before.updated())
            && is < was
        {
            return true;
        }
        if let (Some(is), Some(was)) = (upload.views(), before.views()) {
            views += u128::from(is);
            views_before += u128::from(was);
        }
    }
    views < views_before
}

/// The kinds of which `known` shows an upload and `new` none, since others have pushed it out of the feed.
///
/// Not those whose newest upload is now shown as of the other kind. Nor those of a feed that is empty: nothing has pushed them out.
pub(super) fn pushed_out(new: &Channel, known: &Channel) -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(move |kind| {
        let newest = known.latest(Some(*kind)).and_then(|index| known.upload(index));
        newest.is_some_and(|newest| {
            let is_shown = new.uploads().any(|upload| upload.id() == newest.id());
            !new.is_empty() && !is_shown && new.latest(Some(*kind)).is_none()
        })
    })
}
