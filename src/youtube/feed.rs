//! From the bytes of a channel's Atom feed to a [`Channel`]: pure, no network, no clock.
//!
//! In two steps. `feed/essence.rs` copies what plaque needs, and nothing else, into a document of a known shape; feed-rs reads that. What
//! feed-rs cannot read (empty media texts), would change (the blanks around a title), or would take minutes or gigabytes for
//! (elements that nest or repeat without end) does not get there.

mod essence;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use feed_rs::model::{self, Entry, Person};

use self::essence::{Essence, essence};
use crate::{
    upstream::Feed,
    video::{Channel, ChannelId, Kind, Thumbnail, Upload, VideoId},
};

/// The page of a channel, in an author's `uri`, is this and the channel's ID.
const CHANNEL_PAGE: &str = "youtube.com/channel/";

/// Why some bytes are no feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Not well-formed XML, or not in UTF-8.
    #[error("it is no well-formed XML: {0}")]
    Xml(#[from] quick_xml::Error),
    /// XML, but no feed.
    #[error("it is no Atom feed")]
    NotAFeed,
    /// A feed that is cut off.
    #[error("it ends in the middle")]
    CutOff,
    /// Something in a feed that feed-rs does not read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] feed_rs::parser::ParseFeedError),
    /// A feed, but nothing in it is of the channel that was asked for.
    #[error("it is not the feed of this channel")]
    NotThisChannel,
}

/// Reads a feed: a channel's own, or that of its uploads of one kind.
///
/// The feed's own ID is not looked at: YouTube leaves it empty or writes it without its `UC`. An entry counts if its author is
/// the channel; one without a valid video ID, or of another channel, is left out with a line in the log. What else is missing
/// in an entry is missing in the upload. Texts are returned as they were written, blanks and undefined entities included.
///
/// # Errors
///
/// If the bytes are no feed of this channel. Its feed without entries is a channel without uploads, and no error.
pub fn parse(xml: &[u8], of: impl Into<Feed>) -> Result<Channel, FeedError> {
    let of = of.into();
    let channel = of.channel;
    let Essence {
        xml,
        feed_title,
        titles,
    } = essence(xml)?;
    // A parser for each feed: feed-rs keeps state in it that an error leaves broken.
    let feed = feed_rs::parser::Builder::new()
        // Its default is fifty regular expressions for the dates of the wild; this feed has RFC 3339, and no others.
        .timestamp_parser(rfc3339)
        .build()
        .parse(xml.as_bytes())?;

    let its_own = is_of(&feed, channel);
    // Not the feed's title where there is another: a playlist has one of its own.
    let title = author_name(&feed, channel).unwrap_or(feed_title);
    let entries = feed.entries.len();
    let uploads: Vec<Upload> = feed
        .entries
        .into_iter()
        .filter_map(|entry| upload(entry, &titles, of))
        .collect();
    if uploads.is_empty() && !its_own {
        return Err(FeedError::NotThisChannel);
    }
    Ok(Channel::new(channel, &title, uploads).with_entries(entries))
}

/// The channel's name as the author of an entry: of one that says so, or else of one that does not say who its author is. The author
/// of a collaboration's entry may be another channel.
fn author_name(feed: &model::Feed, channel: ChannelId) -> Option<String> {
    let mut authors = feed.entries.iter().filter_map(|entry| entry.authors.first());
    let mut its_own = authors
        .clone()
        .filter(|author| channel_of(author) == Some(channel));
    let author = its_own
        .next()
        .or_else(|| authors.find(|author| channel_of(author).is_none()))?;
    author.name.clone()
}

/// Whether the feed itself, not only its entries, says that it is the channel's: by its author or by a link. A playlist's link has
/// the channel's 22 characters after another prefix than `UC`.
fn is_of(feed: &model::Feed, channel: ChannelId) -> bool {
    let authors = feed.authors.iter().filter_map(|author| author.uri.as_deref());
    let links = feed.links.iter().map(|link| link.href.as_str());
    authors
        .chain(links)
        .any(|address| address.contains(channel.unprefixed()))
}

fn upload(entry: Entry, titles: &[String], of: Feed) -> Option<Upload> {
    let channel = of.channel;
    let id = entry.id.strip_prefix("yt:video:").unwrap_or(&entry.id);
    let Ok(id) = id.parse::<VideoId>() else {
        tracing::debug!(%channel, entry.id, "left out an entry that has no valid video ID");
        return None;
    };
    if let Some(author) = entry.authors.first().and_then(channel_of)
        && author != channel
    {
        tracing::debug!(%channel, video = %id, %author, "left out an entry of another channel");
        return None;
    }

    let short = entry
        .links
        .iter()
        .any(|link| link.rel.as_deref() == Some("alternate") && link.href.contains("/shorts/"));
    let title = entry
        .title
        .and_then(|number| number.content.parse::<usize>().ok());
    let media = entry.media.into_iter().next();
    let (thumbnails, community) = media.map_or((vec![], None), |m| (m.thumbnails, m.community));

    Some(Upload {
        id,
        // What is in the feed of a kind is of that kind, whatever page it has.
        kind: of.kind.unwrap_or(if short { Kind::Short } else { Kind::Video }),
        title: title
            .and_then(|number| titles.get(number))
            .cloned()
            .unwrap_or_default(),
        published: entry.published.map(SystemTime::from),
        updated: entry.updated.map(SystemTime::from),
        thumbnail: thumbnails.into_iter().next().map(|thumbnail| Thumbnail {
            url: https(thumbnail.image.uri),
            width: thumbnail.image.width.unwrap_or(0),
            height: thumbnail.image.height.unwrap_or(0),
        }),
        views: community.and_then(|community| community.stats_views),
    })
}

/// Which channel an author is, by the address of its page.
fn channel_of(author: &Person) -> Option<ChannelId> {
    let uri = author.uri.as_deref()?;
    uri.split_once(CHANNEL_PAGE)?.1.parse().ok()
}

/// Feeds before about 2017 have `http` links.
fn https(url: String) -> String {
    match url.strip_prefix("http://") {
        Some(rest) => format!("https://{rest}"),
        None => url,
    }
}

fn rfc3339(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text.trim())
        .ok()
        .map(|time| time.to_utc())
}
