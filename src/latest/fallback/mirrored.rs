//! What counts of a mirror's snapshot: mirrors keep feeds for a while, and leave out or change what is in them. Pure.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::SystemTime};

use crate::{
    latest::snapshot,
    upstream::UpstreamError,
    video::{self, Channel, MAX_UPLOADS, Source, Upload, VideoId},
};

/// The most [`Vanished`] uploads: 45 KB.
const REMEMBERED: usize = 4096;

/// Uploads that have vanished from a channel's feed. Mirrors that are behind still show them.
#[derive(Default)]
pub(super) struct Vanished(VecDeque<VideoId>);

impl Vanished {
    /// Notes which uploads of `known` the feed does not show any more, although it reaches back to them.
    pub(super) fn note(&mut self, feed: &Channel, known: &Channel) {
        let oldest = feed
            .uploads()
            .map(|upload| upload.moment())
            .filter(|moment| moment.is_some())
            .min();
        let vanished = known.uploads().filter(|before| {
            let is_reached = !feed.is_full() || oldest.is_some_and(|oldest| before.moment() > oldest);
            is_reached && feed.uploads().all(|upload| upload.id() != before.id())
        });
        for upload in vanished {
            self.0.retain(|id| *id != upload.id());
            self.0.push_back(upload.id());
        }
        while self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }
}

/// What counts of a mirror's snapshot, when `known` is the last one.
///
/// Left out: what is dated in the future, which would be the newest until then, and what has vanished from the feed. Uploads without a date get
/// their known one. Few mirrors say which uploads are Shorts, so those that are known as such remain it.
///
/// # Errors
///
/// If there is nothing: it may lack what the mirror could not load, or what plaque cannot read. And if it lacks the newest known upload and has
/// none that is newer, however often it is so.
pub(super) fn accept(
    mirrored: &Channel,
    known: Option<&Channel>,
    vanished: &Vanished,
    now: SystemTime,
) -> Result<Channel, UpstreamError> {
    let known_as = |id: VideoId| known?.uploads().find(|upload| upload.id() == id);
    let uploads = mirrored.uploads().filter_map(|upload| {
        let before = known_as(upload.id());
        let is_ahead = upload
            .published()
            .is_some_and(|published| video::is_ahead(published, now));
        if is_ahead || before.is_none() && vanished.0.contains(&upload.id()) {
            return None;
        }
        let mut upload = Upload::from(upload);
        upload.published = upload.published.or_else(|| before?.published());
        Some(upload)
    });
    let uploads = uploads.collect();
    let mut channel = Channel::new(mirrored.id(), mirrored.title(), uploads).with_source(Source::Mirror);
    if mirrored.is_full() {
        channel = channel.with_entries(MAX_UPLOADS);
    }
    if channel.is_empty() {
        return Err(UpstreamError::Malformed(
            "it has no upload that can be read".into(),
        ));
    }
    match known {
        Some(known) if snapshot::is_behind(&channel, known) => Err(UpstreamError::SuspectSnapshot),
        Some(known) => Ok(channel.with_shorts_of(known)),
        None => Ok(channel),
    }
}
