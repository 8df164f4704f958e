//! The newest uploads of all channels, for the status page.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, sync::Arc};

use parking_lot::Mutex;

use crate::video::{Channel, Moment};

/// More than the page shows: some of a channel's go when it is looked up again.
const KEPT: usize = 32;

/// An upload: its channel, and its place there.
type Newest = (Arc<Channel>, usize);

/// The newest uploads of the channels that were looked up since the start, at most [`KEPT`].
#[derive(Default)]
pub(super) struct NewestUploads(
    /// The newest first. Held for a sort of 47 at most, by lookups that have ended and never by hits.
    Mutex<Vec<Newest>>,
);

impl NewestUploads {
    /// Adds the uploads of a snapshot, in place of those of the channel's last one.
    pub(super) fn add(&self, channel: &Arc<Channel>) {
        let mut newest = self.0.lock();
        newest.retain(|(known, _)| known.id() != channel.id());
        newest.extend((0..channel.len()).map(|index| (Arc::clone(channel), index)));
        newest.sort_by_key(|(channel, index)| {
            Reverse(
                channel
                    .upload(*index)
                    .map_or(Moment::NONE, |upload| upload.moment()),
            )
        });
        newest.truncate(KEPT);
    }

    /// The newest `most`.
    pub(super) fn get(&self, most: usize) -> Vec<Newest> {
        self.0.lock().iter().take(most).cloned().collect()
    }
}
