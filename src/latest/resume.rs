//! Resume tokens: the position of a watch in one channel, in at most 128 bytes that any server understands.
//!
//! | bits | field |
//! | --- | --- |
//! | 16 | version, phase of the watch, problem that was sent, number of uploads |
//! | 64 | fingerprint of the channel ID |
//! | 64 | floor, see [`cursor`](super::cursor) |
//! | 64 | date of the newest upload below |
//! | 40 for each of up to 20 uploads | 30 of its fingerprint, 2 of its fate, 8 of how much older it is than the newest |
//! | 16 | checksum |
//!
//! All numbers are big-endian. Ages are precise enough that an upload for which the next token has no room is covered by the floor. An
//! upload is mistaken for one that was sent with a probability of 20 in 2³⁰.

use std::time::Duration;

use super::timeline::fingerprint;
use crate::video::Moment;

/// The most uploads of a token.
pub(super) const MOST: usize = 20;

const VERSION: u8 = 1;
const HEAD: usize = 26;
const ENTRY: usize = 5;
const CHECK: usize = 2;

/// The position of a watch in one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// The fingerprint of the channel ID.
    pub(super) channel: u64,
    pub(super) phase: Phase,
    /// The reason of the problem that was sent and is not over: 1 to 7.
    pub(super) problem: Option<u8>,
    pub(super) floor: Moment,
    /// At most [`MOST`].
    pub(super) entries: Vec<Entry>,
}

/// Whether and how a watch has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has begun.
    Begun,
    /// It will begin with the newest upload.
    Newest,
    /// It will begin with the uploads published after the floor.
    After,
    /// It has begun with an empty feed, a while after the floor.
    Empty,
    /// It had begun at another server. Never in a token.
    Resumed,
}

/// An upload that was in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// See [`short_name`].
    pub(super) name: u32,
    pub(super) fate: Fate,
    /// A date from a token may be too late, by at most a minute or a fourteenth of its distance to the newest; never too early.
    pub(super) published: Moment,
}

/// Whether an upload was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It was sent, or will not be sent.
    Sent,
    /// The same, and it is not above the floor, unless its date changes.
    Below,
    /// It was not sent.
    Unsent,
}

/// The upper 30 bits of a fingerprint.
pub(super) fn short_name(fingerprint: u64) -> u32 {
    let [a, b, c, d, ..] = fingerprint.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) >> 2
}

/// The distance to the newest upload in seconds, for each value of the byte: from 0 to 81 years, in steps of a minute or a fourteenth,
/// whichever is more. The last value stands for an upload without a date.
const AGES: [u64; 256] = {
    let mut ages = [0; 256];
    let mut at = 1;
    while at < 256 {
        let age: u64 = ages[at - 1];
        ages[at] = age + if age / 14 > 60 { age / 14 } else { 60 };
        at += 1;
    }
    ages
};

/// The byte for an upload that was published at `published`.
fn age_byte(published: Moment, newest: Moment) -> u8 {
    if !published.is_some() {
        return u8::MAX;
    }
    let nanos = newest.to_nanos().saturating_sub(published.to_nanos());
    let age = u64::try_from(nanos).unwrap_or(0) / NANOS;
    // Rounds down, so that the decoded date is not earlier.
    let reached = AGES[..usize::from(u8::MAX)].partition_point(|step| *step <= age);
    u8::try_from(reached.saturating_sub(1)).unwrap_or(u8::MAX - 1)
}

fn published(age: u8, newest: Moment) -> Moment {
    match age {
        u8::MAX => Moment::NONE,
        age => newest.before(Duration::from_secs(AGES[usize::from(age)])),
    }
}

const NANOS: u64 = 1_000_000_000;

/// The bytes are not a resume token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a resume token of this service")]
pub struct InvalidResumeToken;

impl ResumeToken {
    /// Encodes the token in at most 128 bytes.
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
        // 20 needs five bits.
        #[expect(clippy::cast_possible_truncation, reason = "at most 20")]
        bytes.push(self.problem.unwrap_or(0) << 5 | entries.len() as u8);
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.floor.to_nanos().to_be_bytes());
        let dates = entries.iter().map(|entry| entry.published);
        let newest = dates.max().unwrap_or_default();
        bytes.extend(newest.to_nanos().to_be_bytes());
        for entry in entries {
            bytes.extend((entry.name << 2 | entry.fate as u32).to_be_bytes());
            bytes.push(age_byte(entry.published, newest));
        }
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// Decodes a token.
    ///
    /// # Errors
    ///
    /// If the bytes are not a token, or have a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidResumeToken> {
        let (bytes, check) = bytes.split_last_chunk::<CHECK>().ok_or(InvalidResumeToken)?;
        let (head, entries) = bytes.split_first_chunk::<HEAD>().ok_or(InvalidResumeToken)?;
        let [first, second, numbers @ ..] = head;
        let [channel, floor, newest] = *numbers.as_chunks::<8>().0 else {
            return Err(InvalidResumeToken);
        };
        let phase = match first & 15 {
            0 => Phase::Begun,
            1 => Phase::Newest,
            2 => Phase::After,
            3 => Phase::Empty,
            _ => return Err(InvalidResumeToken),
        };
        let (problem, count) = (second >> 5, usize::from(second & 31));
        let (entries, rest) = entries.as_chunks::<ENTRY>();
        if first >> 4 != VERSION
            || *check != checksum(bytes)
            || count > MOST
            || entries.len() != count
            || !rest.is_empty()
        {
            return Err(InvalidResumeToken);
        }
        let moment = |bytes| Moment::from_nanos(i64::from_be_bytes(bytes));
        Ok(Self {
            channel: u64::from_be_bytes(channel),
            phase,
            problem: (problem > 0).then_some(problem),
            floor: moment(floor),
            entries: entries
                .iter()
                .map(|[a, b, c, d, age]| {
                    let word = u32::from_be_bytes([*a, *b, *c, *d]);
                    Entry {
                        name: word >> 2,
                        fate: match word & 3 {
                            0 => Fate::Sent,
                            1 => Fate::Below,
                            _ => Fate::Unsent,
                        },
                        published: published(*age, moment(newest)),
                    }
                })
                .collect(),
        })
    }

    /// Whether this is a token of `channel`.
    #[must_use]
    pub fn is_of(&self, channel: crate::video::ChannelId) -> bool {
        self.channel == fingerprint(channel.as_str().as_bytes())
    }
}

/// The lower bits of the fingerprint, which differ whenever a single byte does.
pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECK] {
    let [.., first, second] = fingerprint(bytes).to_be_bytes();
    [first, second]
}

#[cfg(test)]
mod tests;
