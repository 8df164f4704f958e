//! The history of a watched channel: which uploads its feed has shown, in which order they appeared, and whether lookups work. Pure.
//!
//! A timeline is shared by all watches of the channel. A [`Cursor`](super::cursor::Cursor) per watch decides which of it is new there.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{FeedEntry, LookupError};
use crate::video::{Channel, MAX_UPLOADS, Moment, Video, VideoId};

/// How many uploads are remembered: the feed's 15 and enough others to recognize one that disappears and returns. Equals the number of bits
/// of a cursor's window.
pub(super) const REMEMBERED: usize = 64;

/// The timeline of one channel.
#[derive(Default)]
pub(super) struct Timeline {
    /// The newest snapshot of the feed.
    channel: Option<Arc<Channel>>,
    /// The number of each upload in it. 0 means that it was forgotten long ago and is new to no watch.
    numbers: [u32; MAX_UPLOADS],
    /// The remembered uploads: those without a date first, then the newest first.
    seen: Vec<Seen>,
    /// The number of the upload that appeared last. Numbers start at 1, in order of appearance; uploads that appeared together are in order
    /// of publication.
    newest: u32,
    /// An upload that was published at or before this time and is not remembered may have been seen and forgotten.
    forgotten: Moment,
    problem: Option<Box<Problem>>,
    /// When the last lookup that was applied ended.
    last_attempt: Option<Instant>,
}

/// An upload that the feed has shown.
pub(super) struct Seen {
    pub(super) id: VideoId,
    pub(super) number: u32,
    pub(super) published: Moment,
    /// Identifies the upload in a resume token.
    pub(super) fingerprint: u64,
}

/// Why lookups of a channel fail.
#[derive(Clone)]
pub(super) struct Problem {
    pub(super) error: LookupError,
    pub(super) retry_at: Instant,
}

/// What the outcome of a lookup says about the health of lookups of the channel.
pub(super) enum Health {
    /// Lookups work.
    Works,
    /// Lookups fail.
    Fails(Problem),
    /// Nothing: the lookup failed for a reason that is not the channel's.
    Unchanged,
}

/// An upload in the newest snapshot.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// Its index in the snapshot.
    pub(super) index: usize,
    pub(super) number: u32,
}

impl Timeline {
    /// Applies the outcome of a lookup, unless a later one was applied already. Returns whether anything changed.
    pub(super) fn apply(&mut self, entry: &FeedEntry, health: Health) -> bool {
        if self.last_attempt.is_some() && entry.last_attempt() <= self.last_attempt {
            return false;
        }
        self.last_attempt = entry.last_attempt();
        let shows = entry
            .success
            .as_ref()
            .is_some_and(|success| self.show(&success.value));
        let before = self.problem.as_ref().map(|problem| problem.error.reason_code());
        match health {
            Health::Works => self.problem = None,
            Health::Fails(problem) => self.problem = Some(Box::new(problem)),
            Health::Unchanged => {}
        }
        shows || before != self.problem.as_ref().map(|problem| problem.error.reason_code())
    }

    /// Applies a snapshot. Returns whether it differs from the previous one.
    fn show(&mut self, channel: &Arc<Channel>) -> bool {
        let before = (self.channel.take(), self.numbers);
        self.numbers = [0; MAX_UPLOADS];
        // Uploads without a date come last, in the order of the feed. If they follow all that were seen, nothing shows that they are newer.
        let is_seen = |upload: Video<'_>| self.seen.iter().any(|seen| seen.id == upload.id());
        let last_seen = channel.uploads().rposition(is_seen);
        let is_first = self.seen.is_empty();
        // The oldest first, so that uploads that appear together are numbered in order of publication.
        for ((index, upload), number) in channel.uploads().enumerate().zip(&mut self.numbers).rev() {
            let (id, published) = (upload.id(), upload.moment());
            *number = match self.seen.iter_mut().find(|seen| seen.id == id) {
                Some(seen) => {
                    // The date of a stream changes when it begins.
                    seen.published = published;
                    seen.number
                }
                None if published.is_some() && published <= self.forgotten => 0,
                None if !published.is_some() && !is_first && last_seen.is_none_or(|last| index > last) => 0,
                None => {
                    self.newest += 1;
                    self.seen.push(Seen {
                        id,
                        number: self.newest,
                        published,
                        fingerprint: fingerprint(id.as_str().as_bytes()),
                    });
                    self.newest
                }
            };
        }
        self.seen
            .sort_by_key(|seen| (seen.published.is_some(), Reverse(seen.published)));
        while self.seen.len() > REMEMBERED {
            let is_shown = |seen: &Seen| self.numbers.contains(&seen.number);
            let Some(oldest) = self.seen.iter().rposition(|seen| !is_shown(seen)) else {
                break;
            };
            self.forgotten = self.forgotten.max(self.seen.remove(oldest).published);
        }
        self.channel = Some(Arc::clone(channel));
        let shown = |channel: &Channel| {
            let uploads = channel.uploads();
            uploads
                .map(|upload| (upload.kind(), upload.moment()))
                .collect::<Vec<_>>()
        };
        before.1 != self.numbers || before.0.is_none_or(|before| shown(&before) != shown(channel))
    }

    /// The newest snapshot.
    pub(super) fn channel(&self) -> Option<&Arc<Channel>> {
        self.channel.as_ref()
    }

    /// The uploads in the newest snapshot.
    pub(super) fn shown(&self) -> impl Iterator<Item = Shown> {
        let length = self.channel.as_ref().map_or(0, |channel| channel.len());
        let numbers = self.numbers.iter().take(length).enumerate();
        numbers.map(|(index, number)| Shown {
            index,
            number: *number,
        })
    }

    /// The remembered uploads: those without a date first, then the newest first.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Whether the upload with this number is in the newest snapshot.
    pub(super) fn shows(&self, number: u32) -> bool {
        self.numbers.contains(&number)
    }

    /// The number of the upload that appeared last.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// When the oldest remembered upload was published; [`Moment::NONE`] if none has a date.
    pub(super) fn oldest(&self) -> Moment {
        self.seen.last().map_or(Moment::NONE, |oldest| oldest.published)
    }

    /// Why lookups fail, if they do.
    pub(super) fn problem(&self) -> Option<&Problem> {
        self.problem.as_deref()
    }
}

impl Problem {
    /// The time until the next lookup.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        self.retry_at.saturating_duration_since(now)
    }
}

/// A short, stable hash of an ID: 64-bit FNV-1a. Part of the format of resume tokens.
pub(super) fn fingerprint(id: &[u8]) -> u64 {
    id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
