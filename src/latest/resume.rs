//! Resume tokens: where a watcher of one channel is, in at most 128 bytes that any server understands.
//!
//! Two bytes say the version, what the watch began with, whether a problem was sent, and how many uploads follow; then 64 bits name
//! the channel, 64 bits are the floor (see [`cursor`](super::cursor)), 40 bits name each upload (the newest 21 that were sent and
//! are above the floor), and 16 bits are a check sum. All numbers are big-endian. A new upload is taken for one that was sent with a
//! chance of 21 in 2³⁹.

use super::timeline::fingerprint;
use crate::video::{MAX_UPLOADS, Moment};

/// The uploads that a feed shows.
pub(super) const FEED: usize = MAX_UPLOADS;

/// The uploads that fit into a token.
pub(super) const MOST: usize = 21;

const VERSION: u8 = 1;
const HEAD: usize = 18;
const ENTRY: usize = 5;
const CHECK: usize = 2;

/// Where a watcher of a channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// Names the channel.
    pub(super) channel: u64,
    pub(super) phase: Phase,
    /// The reason of the problem that was sent and is not over: 1 to 7.
    pub(super) trouble: Option<u8>,
    pub(super) floor: Moment,
    /// At most [`MOST`].
    pub(super) entries: Vec<Entry>,
}

/// How far a watch has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has.
    Begun,
    /// It is to begin with the newest upload.
    Newest,
    /// It is to begin with what was published after the floor.
    After,
    /// It has begun with a feed without uploads, a while after the floor.
    Empty,
    /// It had begun, elsewhere. Not in a token.
    Resumed,
}

/// An upload that was in the feed: 39 bits of its fingerprint, and whether it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) fn new(fingerprint: u64, sent: bool) -> Self {
        Self(fingerprint >> 25 << 1 | u64::from(sent))
    }

    pub(super) fn is(self, fingerprint: u64) -> bool {
        self.0 >> 1 == fingerprint >> 25
    }

    pub(super) fn is_sent(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Some bytes are not a resume token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a resume token of this service")]
pub struct InvalidResumeToken;

impl ResumeToken {
    /// The token as bytes: at most 128.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            Phase::Begun | Phase::Resumed => 0,
            Phase::Newest => 1,
            Phase::After => 2,
            Phase::Empty => 3,
        };
        let entries = &self.entries[..self.entries.len().min(MOST)];
        let mut bytes = Vec::with_capacity(HEAD + entries.len() * ENTRY + CHECK);
        bytes.push(VERSION << 4 | phase);
        // 21 needs five bits.
        #[expect(clippy::cast_possible_truncation, reason = "at most 21")]
        bytes.push(self.trouble.unwrap_or(0) << 5 | entries.len() as u8);
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.floor.to_nanos().to_be_bytes());
        for Entry(entry) in entries {
            bytes.extend(&entry.to_be_bytes()[8 - ENTRY..]);
        }
        bytes.extend(check_sum(&bytes));
        bytes
    }

    /// Reads a token.
    ///
    /// # Errors
    ///
    /// If the bytes are not a token, or one of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidResumeToken> {
        let (bytes, check) = bytes.split_last_chunk::<CHECK>().ok_or(InvalidResumeToken)?;
        let (head, entries) = bytes.split_first_chunk::<HEAD>().ok_or(InvalidResumeToken)?;
        let [first, second, numbers @ ..] = head;
        let (channel, floor) = numbers.split_first_chunk().ok_or(InvalidResumeToken)?;
        let phase = match first & 15 {
            0 => Phase::Begun,
            1 => Phase::Newest,
            2 => Phase::After,
            3 => Phase::Empty,
            _ => return Err(InvalidResumeToken),
        };
        let (trouble, count) = (second >> 5, usize::from(second & 31));
        let (entries, rest) = entries.as_chunks::<ENTRY>();
        if first >> 4 != VERSION
            || *check != check_sum(bytes)
            || count > MOST
            || entries.len() != count
            || !rest.is_empty()
        {
            return Err(InvalidResumeToken);
        }
        let entry = |bytes: &[u8; ENTRY]| Entry(bytes.iter().fold(0, |entry, byte| entry << 8 | u64::from(*byte)));
        Ok(Self {
            channel: u64::from_be_bytes(*channel),
            phase,
            trouble: (trouble > 0).then_some(trouble),
            floor: Moment::from_nanos(i64::from_be_bytes(
                floor.try_into().map_err(|_| InvalidResumeToken)?,
            )),
            entries: entries.iter().map(entry).collect(),
        })
    }

    /// Whether this is a token of the channel with this ID.
    #[must_use]
    pub fn is_of(&self, channel: crate::video::ChannelId) -> bool {
        self.channel == fingerprint(channel.as_str().as_bytes())
    }
}

fn check_sum(bytes: &[u8]) -> [u8; CHECK] {
    let [first, second, ..] = fingerprint(bytes).to_be_bytes();
    [first, second]
}
