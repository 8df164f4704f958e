//! Resume tokens: where a watcher of one channel is, in at most 128 bytes that any server understands.
//!
//! Two bytes say the version, how far the watch has begun, which problem was sent, and how many uploads follow. Then 64 bits name the
//! channel, 64 are the floor (see [`cursor`](super::cursor)), 64 the date of the newest that was sent, 32 name each of up to 25
//! uploads, and 16 are a check sum. All numbers are big-endian. An upload is taken for one that was sent with a
//! chance of 25 in 2³⁰.

use super::timeline::fingerprint;
use crate::video::{MAX_UPLOADS, Moment};

/// The uploads that a feed shows.
pub(super) const FEED: usize = MAX_UPLOADS;

/// The uploads that fit into a token.
pub(super) const MOST: usize = 25;

const VERSION: u8 = 1;
const HEAD: usize = 26;
const ENTRY: usize = 4;
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
    /// No upload in `entries` that was sent was published after this.
    pub(super) newest: Moment,
    /// At most [`MOST`]. Of those that were sent, the ones whose dates the sender knew come last, the newest first.
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

/// An upload that was in the feed: 30 bits of its fingerprint, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It was not sent.
    Unsent,
    /// It was sent, or is not to be sent.
    Sent,
    /// The same; and it is not above the floor, unless its date moves.
    Below,
}

impl Entry {
    pub(super) fn new(fingerprint: u64, fate: Fate) -> Self {
        Self(name(fingerprint) | fate as u32)
    }

    pub(super) fn is(self, fingerprint: u64) -> bool {
        self.0 & !3 == name(fingerprint)
    }

    pub(super) fn fate(self) -> Fate {
        match self.0 & 3 {
            0 => Fate::Unsent,
            1 => Fate::Sent,
            _ => Fate::Below,
        }
    }
}

/// The upper half of a fingerprint but for its last two bits.
fn name(fingerprint: u64) -> u32 {
    let [a, b, c, d, ..] = fingerprint.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) & !3
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
        // 25 needs five bits.
        #[expect(clippy::cast_possible_truncation, reason = "at most 25")]
        bytes.push(self.trouble.unwrap_or(0) << 5 | entries.len() as u8);
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.floor.to_nanos().to_be_bytes());
        bytes.extend(self.newest.to_nanos().to_be_bytes());
        bytes.extend(entries.iter().flat_map(|Entry(entry)| entry.to_be_bytes()));
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
        let moment = |bytes| Moment::from_nanos(i64::from_be_bytes(bytes));
        Ok(Self {
            channel: u64::from_be_bytes(channel),
            phase,
            trouble: (trouble > 0).then_some(trouble),
            floor: moment(floor),
            newest: moment(newest),
            entries: entries
                .iter()
                .map(|bytes| Entry(u32::from_be_bytes(*bytes)))
                .collect(),
        })
    }

    /// Whether this is a token of the channel with this ID.
    #[must_use]
    pub fn is_of(&self, channel: crate::video::ChannelId) -> bool {
        self.channel == fingerprint(channel.as_str().as_bytes())
    }
}

/// The lower bits, which differ whenever a single byte does.
fn check_sum(bytes: &[u8]) -> [u8; CHECK] {
    let [.., first, second] = fingerprint(bytes).to_be_bytes();
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: &str = "UC0123456789abcdefghijkA";

    fn token(uploads: u64) -> ResumeToken {
        ResumeToken {
            channel: fingerprint(CHANNEL.as_bytes()),
            phase: Phase::Begun,
            trouble: Some(7),
            floor: Moment::from_nanos(-1),
            newest: Moment::NONE,
            entries: (0..uploads)
                .map(|upload| Entry::new(fingerprint(&upload.to_be_bytes()), Fate::Below))
                .collect(),
        }
    }

    #[test]
    fn a_token_is_128_bytes_at_most_and_comes_back_as_it_was() {
        for (uploads, length) in [(0, 28), (1, 32), (MOST as u64, 128)] {
            let bytes = token(uploads).encode();
            assert_eq!(bytes.len(), length);
            assert_eq!(ResumeToken::decode(&bytes), Ok(token(uploads)));
        }
        for phase in [Phase::Newest, Phase::After, Phase::Empty] {
            let begun = ResumeToken { phase, ..token(0) };
            assert_eq!(ResumeToken::decode(&begun.encode()), Ok(begun));
        }
        assert!(token(3).is_of(CHANNEL.parse().expect("valid")));
        assert!(!token(3).is_of("UCquiet6789abcdefghijkkA".parse().expect("valid")));
    }

    #[test]
    fn a_fingerprint_never_changes() {
        // Tokens of earlier versions are still around.
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
        let bytes = token(1).encode();
        assert_eq!(&bytes[..2], [0x10, 0xe1]);
    }

    #[test]
    fn bytes_that_are_not_a_token_are_refused() {
        let bytes = token(MOST as u64).encode();
        for length in 0..bytes.len() {
            assert_eq!(ResumeToken::decode(&bytes[..length]), Err(InvalidResumeToken));
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(ResumeToken::decode(&longer), Err(InvalidResumeToken));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(ResumeToken::decode(&changed), Err(InvalidResumeToken), "{place}");
        }
        // Of a version to come, though its check sum is right.
        let mut later = bytes[..bytes.len() - CHECK].to_vec();
        later[0] = 0x20;
        later.extend(check_sum(&later));
        assert_eq!(ResumeToken::decode(&later), Err(InvalidResumeToken));
    }
}
