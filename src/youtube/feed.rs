//! Parses a channel's Atom feed into a [`Channel`]. Pure: no network, no clock.
//!
//! In two steps: `feed/prefilter.rs` copies what plaque needs into a document of a known shape, and feed-rs parses that document. So
//! feed-rs never sees what it cannot read (empty media texts), would change (blanks around a title), or would take minutes or gigabytes for
//! (endlessly nested or repeated elements).

mod prefilter;
#[cfg(test)]
mod tests;

use std::{iter, time::SystemTime};

use chrono::{DateTime, Utc};
use feed_rs::model::{self, Entry, Person};

use self::prefilter::{Prefiltered, prefilter};
use crate::{
    upstream::Feed,
    video::{Channel, ChannelId, ChannelName, Kind, Thumbnail, Upload, VideoId, is_address},
};

/// In the address of a channel's page, on whatever host, this is before the channel ID.
const CHANNEL_PAGE: &str = "/channel/";

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
/// It has to name the channel by its ID, in the address of an author or a link; not by a handle, which may be another's. The feed's own ID is
/// ignored: YouTube leaves it empty, or omits its `UC`. An entry counts if its author is the channel, or the feed's if
/// its own is not known; one without a valid video ID, or of another channel, is logged and left out. Other elements may be missing, and
/// links may lead to a mirror. Texts are returned as written, blanks and undefined entities included.
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

    let its_own = is_of(&feed, channel) || feed.entries.iter().any(|entry| is_by(entry, channel));
    let owner = owner(&feed).unwrap_or(channel);
    // The author's name comes first: a playlist's feed has a title of its own.
    let title = author_name(&feed, channel).unwrap_or(feed_title);
    let entries = feed.entries.len();
    let uploads: Vec<Upload> = feed
        .entries
        .into_iter()
        .filter_map(|entry| upload(entry, &titles, of, owner))
        .collect();
    if !its_own {
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
    let id = owner(&feed).ok_or(FeedError::NotThisChannel)?;
    Ok((id, author_name(&feed, id).unwrap_or(feed_title)))
}

/// The channel of a feed, if it says so: that of its author, or the one that it links to.
fn owner(feed: &model::Feed) -> Option<ChannelId> {
    let mut links = pages(&feed.links).filter_map(channel_page);
    let mut authors = feed.authors.iter().filter_map(channel_of);
    authors.next().or_else(|| links.next())
}

/// The channel's name, as the author of one of its entries, or of an entry that does not say whose it is. The author of a collaboration's
/// entry may be another channel.
fn author_name(feed: &model::Feed, channel: ChannelId) -> Option<String> {
    let authors = feed.entries.iter().filter_map(|entry| entry.authors.first());
    let mut authors = authors.filter(|author| author.name.is_some());
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

/// Whether an entry's author is the channel.
fn is_by(entry: &Entry, channel: ChannelId) -> bool {
    entry
        .authors
        .iter()
        .any(|author| channel_of(author) == Some(channel))
}

fn upload(entry: Entry, titles: &[String], of: Feed, owner: ChannelId) -> Option<Upload> {
    let channel = of.channel;
    let mut pages = iter::once(entry.id.as_str()).chain(pages(&entry.links));
    let id = entry.id.strip_prefix("yt:video:").unwrap_or(&entry.id);
    let id = id.parse::<VideoId>().ok();
    let Some(id) = id.or_else(|| pages.clone().find_map(video_page)) else {
        tracing::debug!(%channel, entry.id, "left out an entry that has no valid video ID");
        return None;
    };
    let author = entry.authors.first().and_then(channel_of).unwrap_or(owner);
    if author != channel {
        tracing::debug!(%channel, video = %id, %author, "left out an entry of another channel");
        return None;
    }

    let short = pages.any(|address| address.contains("/shorts/"));
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
        thumbnail: thumbnails
            .into_iter()
            .next()
            .map(|thumbnail| Thumbnail {
                url: https(thumbnail.image.uri),
                width: thumbnail.image.width.unwrap_or(0),
                height: thumbnail.image.height.unwrap_or(0),
            })
            .filter(|thumbnail| is_address(&thumbnail.url))
            // Every video has this one.
            .or_else(|| {
                Some(Thumbnail {
                    url: format!("https://i.ytimg.com/vi/{id}/hqdefault.jpg"),
                    width: 480,
                    height: 360,
                })
            }),
        views: community.and_then(|community| community.stats_views),
    })
}

/// The addresses of the pages that links lead to.
fn pages(links: &[model::Link]) -> impl Iterator<Item = &str> + Clone {
    let links = links.iter();
    links
        .filter(|link| link.rel.as_deref() == Some("alternate"))
        .map(|link| link.href.as_str())
}

/// The channel of an author, by the address of its page.
fn channel_of(author: &Person) -> Option<ChannelId> {
    channel_page(author.uri.as_deref()?)
}

/// The channel whose page `address` is, on whatever host.
fn channel_page(address: &str) -> Option<ChannelId> {
    address.split_once(CHANNEL_PAGE)?.1.parse().ok()
}

/// The video whose page `address` is, on whatever host: `/watch?v=ID`, `/shorts/ID` and the like, or `youtu.be/ID`.
fn video_page(address: &str) -> Option<VideoId> {
    let name: Result<ChannelName, _> = match address.split_once("://") {
        Some((_, rest)) if !rest.starts_with("youtu.be/") => {
            let (_host, path) = rest.split_once('/')?;
            format!("https://youtube.com/{path}").parse()
        }
        _ => address.parse(),
    };
    match name {
        Ok(ChannelName::Video(id)) => Some(id),
        _ => None,
    }
}

/// Feeds before about 2017 have `http` links. A host with a port, as a mirror of one's own may have it, need not have `https`.
fn https(url: String) -> String {
    match url.strip_prefix("http://") {
        Some(rest) if !rest.split('/').next().is_some_and(|host| host.contains(':')) => {
            format!("https://{rest}")
        }
        _ => url,
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
