//! The records of fixed size that a [`Channel`](super::Channel) has for its uploads.

use std::ops::Range;

use crate::video::{Kind, Moment, Thumbnail, VideoId};

/// An upload in 48 bytes. Some numbers are stored as byte arrays to avoid padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) published: Moment,
    pub(super) updated: Moment,
    /// The end of the title in the channel's texts. It begins where the previous text ends.
    pub(super) title_end: u32,
    pub(super) thumbnail: Option<StoredThumbnail>,
    pub(super) id: VideoId,
    pub(super) kind: Kind,
    pub(super) views: Option<[u8; 8]>,
}

/// A thumbnail, stored without its URL if that can be derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredThumbnail {
    /// A URL as in all feeds seen so far: `https://i3.ytimg.com/vi/VIDEO/hqdefault.jpg`, or with `i`.
    Default {
        /// The digit in the host name, or [`NO_DIGIT`].
        host: u8,
        width: u16,
        height: u16,
    },
    /// Any other URL: an index (a `u32`) into the channel's other thumbnails.
    Other([u8; 4]),
}

/// Stands for a host name without a digit.
const NO_DIGIT: u8 = 10;

impl StoredThumbnail {
    /// The compact form of a thumbnail of the video `id`; `None` if its URL cannot be derived.
    pub(super) fn compact(thumbnail: &Thumbnail, id: VideoId) -> Option<Self> {
        let host = thumbnail.url.strip_prefix("https://i")?.chars().next()?;
        let host = match host {
            '.' => NO_DIGIT,
            digit => digit.to_digit(10)?.try_into().ok()?,
        };
        let width = thumbnail.width.try_into().ok()?;
        let height = thumbnail.height.try_into().ok()?;
        (Self::url(host, &id).concat() == thumbnail.url).then_some(Self::Default { host, width, height })
    }

    /// The URL of a [`Default`](Self::Default) thumbnail, in parts.
    pub(super) fn url(host: u8, id: &VideoId) -> [&str; 5] {
        let digit = usize::from(host);
        let digit = "0123456789".get(digit..=digit).unwrap_or_default();
        [
            "https://i",
            digit,
            ".ytimg.com/vi/",
            id.as_str(),
            "/hqdefault.jpg",
        ]
    }
}

/// A thumbnail whose URL cannot be derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherThumbnail {
    /// The range of the URL in the channel's texts.
    pub(super) url: Range<u32>,
    pub(super) width: u32,
    pub(super) height: u32,
}
