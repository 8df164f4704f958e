//! Compares two snapshots of a feed: is the new one older than the last, and which kinds of uploads have left it? Pure.
//!
//! YouTube serves a feed from several caches, so an older or an empty snapshot sometimes follows a newer one.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    cache_entry::Success,
    video::{Channel, Kind, Source, Video, VideoId},
};

/// All kinds of uploads.
const KINDS: [Kind; 2] = [Kind::Video, Kind::Short];

/// How late the feed lists an upload: YouTube's caches keep it for so long.
const FEED_LAG: Duration = Duration::from_mins(15);

/// Whether `new` may be wrong or older than `known`, although it was fetched later: it is empty and `known` is not, or it lacks the newest
/// upload of `known` and the data of common uploads went back.
///
/// Neither sign alone is enough. The newest upload may have been deleted; and while it is in the feed, counts may go back: in a series of
/// 89 real snapshots, one upload's views decreased by a few in 10 of the 88 steps, mostly while others increased. Snapshots of two sources may
/// have no data in common to compare: then the new one is suspect if it [is behind](is_behind).
pub(super) fn is_suspect(new: &Channel, known: &Channel) -> bool {
    let Some(newest) = known.upload(0) else {
        return false;
    };
    let shown: HashMap<VideoId, Video<'_>> = new.uploads().map(|upload| (upload.id(), upload)).collect();
    if shown.is_empty() {
        return true;
    }
    !shown.contains_key(&newest.id()) && went_back(&shown, known).unwrap_or_else(|| is_behind(new, known))
}

/// Whether `new` lacks the newest upload of `known` and has none that was published later.
pub(super) fn is_behind(new: &Channel, known: &Channel) -> bool {
    known.upload(0).is_some_and(|newest| {
        let is_older = |upload: &Video<'_>| upload.moment() < newest.moment() && upload.id() != newest.id();
        new.uploads().all(|upload| is_older(&upload))
    })
}

/// When another source first reported the newest upload of `new`, which was looked up `now`. `None` if the feed has listed it.
pub(super) fn unlisted_since(
    new: &Channel,
    known: Option<&Success<Arc<Channel>>>,
    now: Instant,
) -> Option<Instant> {
    let newest = new.upload(0).filter(|_| new.source() != Source::Feed)?;
    let is_known = |known: &Channel| known.uploads().any(|upload| upload.id() == newest.id());
    match known.filter(|known| is_known(&known.value)) {
        Some(known) => known.unlisted_since,
        None => Some(now),
    }
}

/// Whether the feed may lack the newest upload of `known` because it lags: only other sources have listed it so far. Such a snapshot is not
/// believed, however often it is so, while `known` is far from the age `usable_for`, at which it is no answer any more.
pub(super) fn lags(new: &Channel, known: &Success<Arc<Channel>>, usable_for: Duration, now: Instant) -> bool {
    // The pauses between lookups double. Up to this age, `known` is usable until the next one.
    let can_wait = known.age(now) <= usable_for / 2;
    let is_unlisted = |since| now.saturating_duration_since(since) < FEED_LAG;
    can_wait
        && new.source() == Source::Feed
        && known.unlisted_since.is_some_and(is_unlisted)
        && is_behind(new, &known.value)
}

/// Whether a common upload was changed later in `known`, or the common uploads have fewer views in total than in `known`. `None` if there is
/// nothing to compare.
fn went_back(shown: &HashMap<VideoId, Video<'_>>, known: &Channel) -> Option<bool> {
    let mut is_comparable = false;
    // Sums of up to 15 counts.
    let (mut views, mut views_before) = (0_u128, 0_u128);
    for before in known.uploads() {
        let Some(upload) = shown.get(&before.id()) else {
            continue;
        };
        if let (Some(is), Some(was)) = (upload.updated(), before.updated()) {
            if is < was {
                return Some(true);
            }
            is_comparable = true;
        }
        if let (Some(is), Some(was)) = (upload.views(), before.views()) {
            views += u128::from(is);
            views_before += u128::from(was);
            is_comparable = true;
        }
    }
    is_comparable.then_some(views < views_before)
}

/// The kinds of which `known` has uploads and `new` has none, since newer uploads of other kinds have pushed them out of the feed.
///
/// Excludes kinds whose newest upload is now listed as another kind, and empty feeds, where nothing has pushed them out.
pub(super) fn pushed_out(new: &Channel, known: &Channel) -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(move |kind| {
        let newest = known.latest(Some(*kind)).and_then(|index| known.upload(index));
        newest.is_some_and(|newest| {
            let is_shown = new.uploads().any(|upload| upload.id() == newest.id());
            !new.is_empty() && !is_shown && new.latest(Some(*kind)).is_none()
        })
    })
}
