//! What a watch has told of: so that a new connection goes on where the old one broke, and tells nothing twice.
//!
//! `published_after` is one time for all channels of a request, and the uploads after it come again. So each channel has a
//! *floor*, up to which nothing is news, and the IDs above it that were told of. A feed shows a channel's newest 15 uploads: what
//! is beyond them cannot come again, so no more are remembered, and the floor rises to the one that is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::{
    proto::v1::{
        LookupResult, Video, WatchLatestVideoRequest, WatchLatestVideoResponse,
        lookup_result::Outcome as Found, watch_latest_video_response::Event,
    },
    video::{ChannelId, MAX_UPLOADS},
};

/// The channels of a watch, and what was told of each.
pub(super) struct Seen {
    channels: BTreeMap<String, Told>,
    kind: i32,
}

#[derive(Clone, Default)]
struct Told {
    /// What was published up to then is no news. `None`: the newest upload was not told of yet.
    floor: Option<SystemTime>,
    /// The newest uploads that were told of, by the time of their publication.
    uploads: BTreeSet<(Option<SystemTime>, String)>,
    /// There was one on an earlier connection: whatever comes now was not there when the watch began.
    went_on: bool,
    /// Why its lookups fail, as far as is known.
    trouble: Option<String>,
    /// The same, as it was when the last connection broke.
    old_trouble: Option<String>,
}

impl Seen {
    /// Nothing yet. The watch is to begin with what was published after a time, or with each channel's newest upload.
    pub(super) fn nothing(channels: &[ChannelId], kind: i32, published_after: Option<SystemTime>) -> Self {
        let told = Told {
            floor: published_after,
            ..Told::default()
        };
        Self {
            channels: channels.iter().map(|id| (id.to_string(), told.clone())).collect(),
            kind,
        }
    }

    /// What to ask a new connection for: the channels that go on, and those that begin with their newest upload.
    pub(super) fn requests(&mut self) -> Vec<WatchLatestVideoRequest> {
        for told in self.channels.values_mut() {
            told.went_on = !told.uploads.is_empty();
            told.old_trouble.clone_from(&told.trouble);
        }
        let request = |goes_on: bool| {
            let channels = self.channels.iter();
            let (ids, floors): (Vec<_>, Vec<_>) = channels
                .filter(|(_, told)| told.floor.is_some() == goes_on)
                .map(|(id, told)| (id.clone(), told.floor))
                .unzip();
            (!ids.is_empty()).then(|| WatchLatestVideoRequest {
                channel_ids: ids,
                kind: self.kind,
                published_after: floors.into_iter().flatten().min().map(Into::into),
                resume_tokens: vec![],
            })
        };
        [true, false].into_iter().filter_map(request).collect()
    }

    /// `event`, if it is news; and now it is not any more.
    pub(super) fn news(&mut self, mut event: WatchLatestVideoResponse) -> Option<WatchLatestVideoResponse> {
        let initial = event.initial;
        match &event.event {
            Some(Event::Video(video)) => {
                let Some(told) = self.channels.get_mut(&video.channel_id) else {
                    return Some(event);
                };
                event.initial &= !told.went_on;
                told.is_news(video, initial).then_some(event)
            }
            Some(Event::Problem(problem)) => {
                let told = self.channels.get_mut(&problem.channel_id);
                told.is_none_or(|told| told.is_new_trouble(problem))
                    .then_some(event)
            }
            Some(Event::Recovered(_) | Event::Missed(_)) | None => Some(event),
        }
    }
}

impl Told {
    /// Takes note of an upload. `initial`: the server found it when the connection's watch began.
    fn is_news(&mut self, video: &Video, initial: bool) -> bool {
        let published = video
            .publish_time
            .and_then(|time| SystemTime::try_from(time).ok());
        let known = self.uploads.iter().any(|(_, id)| *id == video.video_id);
        // The floor of another channel may be lower, and the server knows only the lowest.
        if known || initial && published.is_some() && published <= self.floor {
            return false;
        }
        if !initial {
            // A lookup has found it.
            (self.trouble, self.old_trouble) = (None, None);
        }
        if self.floor.is_none() {
            // Just below: another upload may have the same time, and not be in the feed yet.
            self.floor = published.and_then(|time| time.checked_sub(Duration::from_nanos(1)));
        }
        self.uploads.insert((published, video.video_id.clone()));
        if self.uploads.len() > MAX_UPLOADS
            && let Some((forgotten, _)) = self.uploads.pop_first()
        {
            self.floor = self.floor.max(forgotten);
        }
        true
    }

    /// Takes note of a problem. A new connection tells of it again if it lasts.
    fn is_new_trouble(&mut self, problem: &LookupResult) -> bool {
        let why = match &problem.outcome {
            Some(Found::Failure(failure)) => Some(failure.reason.clone()),
            _ => None,
        };
        let known = why.is_some() && self.old_trouble.take() == why;
        self.trouble = why;
        !known
    }
}

#[cfg(test)]
impl Seen {
    /// The number of uploads that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.channels.values().map(|told| told.uploads.len()).sum()
    }
}
