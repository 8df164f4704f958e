//! What a [`Channel`](super::Channel) is made of: records of fixed size.

use std::ops::Range;

use crate::video::{Kind, Moment, Thumbnail, VideoId};

/// What is kept of an upload: 48 bytes. What would be padding between numbers is saved by keeping some of them as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) published: Moment,
    pub(super) updated: Moment,
    /// In the channel's texts. The title begins where the text before it ends.
    pub(super) title_end: u32,
    pub(super) thumbnail: Option<Still>,
    pub(super) id: VideoId,
    pub(super) kind: Kind,
    pub(super) views: Option<[u8; 8]>,
}

/// A thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// On one of YouTube's hosts, as all thumbnails are in every feed seen: `https://i3.ytimg.com/vi/VIDEO/hqdefault.jpg`.
    Usual {
        /// The host's digit.
        host: u8,
        width: u16,
        height: u16,
    },
    /// Anywhere else: an index (a `u32`) into the channel's odd thumbnails.
    Odd([u8; 4]),
}

impl Still {
    /// `thumbnail` as a usual one of the video `id`, if its address can be put together again from that.
    pub(super) fn usual(thumbnail: &Thumbnail, id: VideoId) -> Option<Self> {
        let host = thumbnail.url.strip_prefix("https://i")?.chars().next()?;
        let host = host.to_digit(10)?.try_into().ok()?;
        let width = thumbnail.width.try_into().ok()?;
        let height = thumbnail.height.try_into().ok()?;
        (Self::url(host, &id).concat() == thumbnail.url).then_some(Self::Usual { host, width, height })
    }

    /// The address of a usual one, in parts.
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

/// A thumbnail that is no [`Still::Usual`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OddThumbnail {
    /// In the channel's texts.
    pub(super) url: Range<u32>,
    pub(super) width: u32,
    pub(super) height: u32,
}
