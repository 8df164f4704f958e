//! Channels and their uploads.
//!
//! IDs are parsed once, where they enter the program. A [`ChannelId`] is valid by construction, `Copy`, and needs no allocation.

mod bounds;
mod channel;
pub(crate) mod channel_name;
mod moment;

use std::{fmt, str, str::FromStr, time::SystemTime};

pub use self::{
    bounds::MAX_TEXT,
    channel::{Channel, MAX_UPLOADS, Picture, Source, Video},
    channel_name::{ChannelName, InvalidName, MAX_QUERY, ResolvedChannel},
    moment::Moment,
};

pub(crate) use self::{
    bounds::{escape, is_address, is_ahead, message, steers},
    channel_name::is_youtube,
};

/// The first two characters of every channel ID; those of the channel's playlists differ.
const CHANNEL_PREFIX: &str = "UC";

/// The ID of a YouTube channel: `UC` and 22 characters, which are 16 bytes in URL-safe Base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId([u8; Self::LEN]);

impl ChannelId {
    /// The number of characters of every channel ID.
    pub const LEN: usize = 24;

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }

    /// The ID without its `UC`. The IDs of the channel's playlists contain this part.
    #[must_use]
    pub fn unprefixed(&self) -> &str {
        ascii(&self.0[CHANNEL_PREFIX.len()..])
    }
}

impl AsRef<[u8]> for ChannelId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ChannelId {
    type Err = InvalidChannelId;

    fn from_str(text: &str) -> Result<Self, InvalidChannelId> {
        // 22 characters hold 132 bits and 16 bytes are 128: the last 4 bits are always zero.
        let has_16_bytes = |last| matches!(last, b'A' | b'Q' | b'g' | b'w');
        if let Ok(bytes) = <[u8; Self::LEN]>::try_from(text.as_bytes())
            && text.starts_with(CHANNEL_PREFIX)
            && bytes.iter().all(|byte| is_base64url(*byte))
            && has_16_bytes(bytes[Self::LEN - 1])
        {
            return Ok(Self(bytes));
        }
        Err(InvalidChannelId::of(text))
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a [`ChannelId`]. The message never repeats the whole text, which may be long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannelId {
    /// The text is empty.
    #[error("no channel ID was given; expected UC and 22 more characters")]
    Empty,
    /// A handle such as `@kurzgesagt`, which only YouTube can resolve.
    #[error(
        "a handle (@…) is no channel ID; the ID starts with UC and is in the address of the channel's page"
    )]
    Handle,
    /// Too short or too long.
    #[error("it has {0} characters; a channel ID has 24: UC and 22 more")]
    Length(usize),
    /// It does not start with `UC`.
    #[error("it does not start with UC")]
    Prefix,
    /// It has a character that is not part of URL-safe Base64.
    #[error("it contains {0:?}; a channel ID has only A-Z, a-z, 0-9, - and _")]
    Character(char),
    /// Its last character has bits beyond the 16 bytes.
    #[error("its last character is {0:?}; a channel ID ends with A, Q, g or w")]
    LastCharacter(char),
}

impl InvalidChannelId {
    /// What is wrong with `text`, which is not a channel ID.
    fn of(text: &str) -> Self {
        let length = text.chars().count();
        let bad = text.chars().find(|c| !u8::try_from(*c).is_ok_and(is_base64url));
        match (text.chars().next_back(), bad) {
            (None, _) => Self::Empty,
            _ if text.starts_with('@') => Self::Handle,
            _ if length != ChannelId::LEN => Self::Length(length),
            _ if !text.starts_with(CHANNEL_PREFIX) => Self::Prefix,
            (_, Some(bad)) => Self::Character(bad),
            (Some(last), None) => Self::LastCharacter(last),
        }
    }
}

/// The ID of a YouTube video: 11 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VideoId([u8; Self::LEN]);

impl VideoId {
    /// The number of characters of every video ID.
    pub const LEN: usize = 11;

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }
}

impl FromStr for VideoId {
    type Err = InvalidVideoId;

    fn from_str(text: &str) -> Result<Self, InvalidVideoId> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| InvalidVideoId)?;
        if bytes.iter().all(|byte| is_base64url(*byte)) {
            Ok(Self(bytes))
        } else {
            Err(InvalidVideoId)
        }
    }
}

impl fmt::Display for VideoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for VideoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not 11 characters of `A-Z a-z 0-9 - _`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a video ID has 11 characters of A-Z, a-z, 0-9, - and _")]
pub struct InvalidVideoId;

/// The kind of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A video, a live stream or a premiere: anything but a Short.
    Video,
    /// A Short.
    Short,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Video => "video",
            Self::Short => "Short",
        })
    }
}

/// One upload, as listed in the channel's feed. A [`Channel`] is built from these and returns them as [`Video`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The ID of the video.
    pub id: VideoId,
    /// Video or Short.
    pub kind: Kind,
    /// The title as written by the channel; may be empty.
    pub title: String,
    /// When it was published; for a scheduled stream, when it was announced.
    pub published: Option<SystemTime>,
    /// When its entry was last changed.
    pub updated: Option<SystemTime>,
    /// The thumbnail.
    pub thumbnail: Option<Thumbnail>,
    /// The view count when the feed was generated.
    pub views: Option<u64>,
}

/// A thumbnail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    /// Its URL.
    pub url: String,
    /// The width in pixels; 0 if unknown.
    pub width: u32,
    /// The height in pixels; 0 if unknown.
    pub height: u32,
}

pub(crate) fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Converts an ID to text. IDs are ASCII, which is checked again since `unsafe` is forbidden; the check takes a few cycles.
fn ascii(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_channel_id_is_parsed_unchanged() {
        let id: ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("a real ID");
        assert_eq!(id.as_str(), "UCsXVk37bltHxD1rDPwtNM8Q");
        assert_eq!(size_of::<ChannelId>(), 24);
    }

    #[test]
    fn an_invalid_channel_id_has_an_error_that_says_what_is_wrong() {
        let refused = |text: &str| text.parse::<ChannelId>().expect_err(text);
        assert_eq!(refused(""), InvalidChannelId::Empty);
        assert_eq!(refused("@kurzgesagt"), InvalidChannelId::Handle);
        assert_eq!(refused("UCsXVk37bltHxD1rDPwtNM8"), InvalidChannelId::Length(23));
        assert_eq!(refused(&"x".repeat(10_000)), InvalidChannelId::Length(10_000));
        assert_eq!(refused("UXsXVk37bltHxD1rDPwtNM8Q"), InvalidChannelId::Prefix);
        assert_eq!(
            refused("UCsXVk37bltHxD1rDPwtNM8R"),
            InvalidChannelId::LastCharacter('R')
        );
        assert_eq!(
            refused("UCsXVk37bltHxD1r/PwtNM8Q"),
            InvalidChannelId::Character('/')
        );
        // 24 characters, but more bytes.
        assert_eq!(
            refused("UCsXVk37bltHxD1rÜPwtNM8Q"),
            InvalidChannelId::Character('Ü')
        );
    }

    #[test]
    fn a_video_id_has_eleven_characters() {
        assert_eq!(
            "N2FOxjtv5ns".parse::<VideoId>().map(|id| id.to_string()),
            Ok("N2FOxjtv5ns".into())
        );
        for bad in ["", "N2FOxjtv5n", "N2FOxjtv5nsX", "N2FOxjtv5n?"] {
            assert_eq!(bad.parse::<VideoId>(), Err(InvalidVideoId), "{bad}");
        }
    }
}
