//! What has happened to a watched channel: which uploads its feed showed, in which order they appeared, and whether lookups work.
//!
//! Pure. A timeline says what appeared and when; which of it is news to a watcher is for its [`Cursor`](super::cursor::Cursor) to say.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Known, LookupError};
use crate::video::{Channel, MAX_UPLOADS, Moment, VideoId};

/// Uploads that are remembered: the feed's 15, and enough more that one which vanishes and shows again is recognized. As many as a
/// cursor's window has bits.
pub(super) const REMEMBERED: usize = 64;

/// The timeline of one channel.
#[derive(Default)]
pub(super) struct Timeline {
    /// The newest snapshot of the feed.
    channel: Option<Arc<Channel>>,
    /// The number of each upload in it. 0: it was forgotten long ago, and is not news to anybody.
    numbers: [u32; MAX_UPLOADS],
    /// The uploads that are remembered: those without a date first, then the newest first.
    seen: Vec<Seen>,
    /// The number of the upload that appeared last. They count from 1, in the order of appearance, and of publication if they
    /// appeared together.
    newest: u32,
    /// An upload that is not remembered and was published at this time or before may have been seen, and forgotten.
    forgotten: Moment,
    trouble: Option<Box<Trouble>>,
    /// When the last lookup ended that it has taken in.
    last_attempt: Option<Instant>,
}

/// An upload that the feed showed.
pub(super) struct Seen {
    pub(super) id: VideoId,
    pub(super) number: u32,
    pub(super) published: Moment,
    /// The same upload in a resume token.
    pub(super) fingerprint: u64,
}

/// Why lookups of a channel fail.
#[derive(Clone)]
pub(super) struct Trouble {
    pub(super) error: LookupError,
    pub(super) retry_at: Instant,
}

/// What a lookup says about whether lookups of its channel work.
pub(super) enum Health {
    /// They do.
    Works,
    /// They do not.
    Fails(Trouble),
    /// Nothing: it failed for a reason that is not the channel's.
    Unchanged,
}

/// An upload in the newest snapshot.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// Its place in the snapshot.
    pub(super) index: usize,
    pub(super) number: u32,
}

impl Timeline {
    /// Takes in what a lookup has brought, unless a later one is taken in already. Says whether anything has changed.
    pub(super) fn apply(&mut self, known: &Known, health: Health) -> bool {
        if self.last_attempt.is_some() && known.last_attempt() <= self.last_attempt {
            return false;
        }
        self.last_attempt = known.last_attempt();
        let shows = known.good.as_ref().is_some_and(|good| self.show(&good.value));
        let before = self.trouble.as_ref().map(|trouble| trouble.error.reason_code());
        match health {
            Health::Works => self.trouble = None,
            Health::Fails(trouble) => self.trouble = Some(Box::new(trouble)),
            Health::Unchanged => {}
        }
        shows || before != self.trouble.as_ref().map(|trouble| trouble.error.reason_code())
    }

    /// Takes in a snapshot. Says whether it differs from the one before in what it shows.
    fn show(&mut self, channel: &Arc<Channel>) -> bool {
        let before = (self.channel.take(), self.numbers);
        self.numbers = [0; MAX_UPLOADS];
        // The oldest first, so that the numbers of those that appear together have the order of publication.
        for (upload, number) in channel.uploads().zip(&mut self.numbers).rev() {
            let (id, published) = (upload.id(), upload.moment());
            *number = match self.seen.iter_mut().find(|seen| seen.id == id) {
                Some(seen) => {
                    // The date of a stream moves when it begins.
                    seen.published = published;
                    seen.number
                }
                None if published.is_some() && published <= self.forgotten => 0,
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

    /// The uploads that the newest snapshot shows.
    pub(super) fn shown(&self) -> impl Iterator<Item = Shown> {
        let length = self.channel.as_ref().map_or(0, |channel| channel.len());
        let numbers = self.numbers.iter().take(length).enumerate();
        numbers.map(|(index, number)| Shown {
            index,
            number: *number,
        })
    }

    /// The uploads that are remembered: those without a date first, then the newest first.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Whether the newest snapshot shows the upload with this number.
    pub(super) fn shows(&self, number: u32) -> bool {
        self.numbers.contains(&number)
    }

    /// The number of the upload that appeared last.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// When the oldest upload that is remembered was published; none if none has a date.
    pub(super) fn oldest(&self) -> Moment {
        self.seen.last().map_or(Moment::NONE, |oldest| oldest.published)
    }

    /// Why lookups fail, if they do.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_deref()
    }
}

impl Trouble {
    /// How long until the next lookup.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        self.retry_at.saturating_duration_since(now)
    }
}

/// A short, stable name of an ID: 64-bit FNV-1a. Part of the format of resume tokens.
pub(super) fn fingerprint(id: &[u8]) -> u64 {
    id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
