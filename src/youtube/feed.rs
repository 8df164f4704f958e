//! Parses a channel's Atom feed into a [`Channel`]. Pure: no network, no clock.
//!
//! In two steps: `feed/prefilter.rs` copies what plaque needs into a document of a known shape, and feed-rs parses that document. So
//! feed-rs never sees what it cannot read (empty media texts), would change (blanks around a title), or would take minutes or gigabytes for
//! (endlessly nested or repeated elements).

mod prefilter;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use feed_rs::model::{self, Entry, Person};

use self::prefilter::{Prefiltered, prefilter};
use crate::{
    upstream::Feed,
    video::{Channel, ChannelId, Kind, Thumbnail, Upload, VideoId},
};

/// An author's `uri` is the address of the channel's page: this and the channel ID.
const CHANNEL_PAGE: &str = "youtube.com/channel/";

/// Why bytes are not a feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// They are not well-formed XML, or not UTF-8.
    #[error("it is no well-formed XML: {0}")]
    Xml(#[from] quick_xml::Error),
    /// They are XML, but not a feed.
    #[error("it is no Atom feed")]
    NotAFeed,
    /// The feed is truncated.
    #[error("it ends in the middle")]
    CutOff,
    /// feed-rs cannot parse it.
    #[error("it cannot be read: {0}")]
    Parser(#[from] feed_rs::parser::ParseFeedError),
    /// It is a feed, but nothing in it is of the requested channel.
    #[error("it is not the feed of this channel")]
    NotThisChannel,
}

/// Parses a feed: a channel's own, or the list of its uploads of one kind.
///
/// The feed's own ID is ignored: YouTube leaves it empty, or omits its `UC`. An entry counts if its author is the channel; one without a
/// valid video ID, or of another channel, is logged and left out. Other elements may be missing. Texts are returned as written, blanks and
/// undefined entities included.
///
/// # Errors
///
/// If the bytes are not a feed of this channel. A feed of the channel without entries is not an error.
pub fn parse(xml: &[u8], of: impl Into<Feed>) -> Result<Channel, FeedError> {
    let of = of.into();
    let channel = of.channel;
    let Prefiltered {
        xml,
        feed_title,
        titles,
    } = prefilter(xml)?;
    let feed = parser().parse(xml.as_bytes())?;

    let its_own = is_of(&feed, channel);
    // The author's name comes first: a playlist's feed has a title of its own.
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

/// Whose feed it is: the channel and its title, by the feed's own author and links.
///
/// # Errors
///
/// If the bytes are no feed, or it does not say whose it is.
pub fn channel(xml: &[u8]) -> Result<(ChannelId, String), FeedError> {
    let Prefiltered { xml, feed_title, .. } = prefilter(xml)?;
    let feed = parser().parse(xml.as_bytes())?;
    let authors = feed.authors.iter().filter_map(channel_of);
    let links = feed.links.iter().filter_map(|link| {
        let (_, id) = link.href.split_once(CHANNEL_PAGE)?;
        id.parse().ok()
    });
    let id = authors.chain(links).next().ok_or(FeedError::NotThisChannel)?;
    Ok((id, author_name(&feed, id).unwrap_or(feed_title)))
}

/// The channel's name, as the author of one of its entries, or of an entry that does not say whose it is. The author of a collaboration's
/// entry may be another channel.
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

/// Whether the feed itself, not only its entries, is the channel's, by its author or by a link. A playlist's link has the channel's 22
/// characters after another prefix than `UC`.
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
        // In the list of a kind all uploads are of that kind, whatever their page.
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

/// The channel of an author, by the address of its page.
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

/// A parser for one feed: feed-rs keeps state in it that an error leaves inconsistent.
fn parser() -> feed_rs::parser::Parser {
    feed_rs::parser::Builder::new()
        // Its default is fifty regular expressions; these feeds have dates of RFC 3339 only.
        .timestamp_parser(rfc3339)
        .build()
}

fn rfc3339(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text.trim())
        .ok()
        .map(|time| time.to_utc())
}
