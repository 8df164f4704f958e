//! The feed that fuzz targets are about.

use super::Feed;
use crate::video::Kind;

/// Whose feed is asked for: most recorded feeds are Kurzgesagt's.
pub(crate) const CHANNEL: &str = "UCsXVk37bltHxD1rDPwtNM8Q";

/// The feed of [`CHANNEL`] that a number means.
pub(crate) fn feed(number: u8) -> Feed {
    Feed {
        channel: CHANNEL.parse().expect("an ID"),
        kind: [None, Some(Kind::Video), Some(Kind::Short)][usize::from(number % 3)],
    }
}
