//! From the bytes of a channel's Atom feed to a [`Channel`]: pure, no network, no clock.

use std::{str, time::SystemTime};

use chrono::{DateTime, Utc};
use feed_rs::model::{Entry, Feed};
use quick_xml::{Reader, events::Event};

use crate::video::{Channel, ChannelId, Kind, Thumbnail, Upload, VideoId};

/// A feed nests five elements deep. feed-rs descends by recursion: a document that nests without end would overflow the stack,
/// which no `catch_unwind` survives.
const MAX_DEPTH: usize = 32;

/// The page of a channel, in an author's `uri`, is this and the channel's ID.
const CHANNEL_PAGE: &str = "youtube.com/channel/";

/// Why some bytes are no feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Not well-formed XML, or not in UTF-8.
    #[error("it is no well-formed XML: {0}")]
    Xml(#[from] quick_xml::Error),
    /// Elements within elements within elements.
    #[error("it nests elements more than {MAX_DEPTH} deep")]
    TooDeep,
    /// XML, but no feed.
    #[error("it is no Atom feed: {0}")]
    NotAFeed(#[from] feed_rs::parser::ParseFeedError),
    /// A feed, but nothing in it is of the channel that was asked for.
    #[error("it is not the feed of this channel")]
    NotThisChannel,
}

/// Reads the feed of `channel`.
///
/// The feed's own ID is not looked at: YouTube leaves it empty or writes it without its `UC`. An entry counts if its author is
/// the channel; one without a valid video ID, or of another channel, is left out with a line in the log.
///
/// # Errors
///
/// If the bytes are no feed of this channel. Its feed without entries is a channel without uploads, and no error.
pub fn parse(xml: &[u8], channel: ChannelId) -> Result<Channel, FeedError> {
    let readable = without_media_texts(xml)?;
    // A parser for each feed: feed-rs keeps state in it that an error leaves broken.
    let feed = feed_rs::parser::Builder::new()
        // Its default is fifty regular expressions for the dates of the wild; this feed has RFC 3339, and no others.
        .timestamp_parser(rfc3339)
        .build()
        .parse(readable.as_slice())?;

    let its_own = is_of(&feed, channel);
    // The author of an entry is the channel even where the feed has another title (a playlist's, or none).
    let author = feed.entries.first().and_then(|e| e.authors.first()?.name.clone());
    let title = author.or(feed.title.map(|title| title.content));
    let uploads: Vec<Upload> = feed
        .entries
        .into_iter()
        .filter_map(|entry| upload(entry, channel))
        .collect();
    if uploads.is_empty() && !its_own {
        return Err(FeedError::NotThisChannel);
    }
    Ok(Channel::new(channel, &title.unwrap_or_default(), uploads))
}

/// Whether the feed itself, not only its entries, says that it is the channel's: by its author or by a link.
fn is_of(feed: &Feed, channel: ChannelId) -> bool {
    let authors = feed.authors.iter().filter_map(|author| author.uri.as_deref());
    let links = feed.links.iter().map(|link| link.href.as_str());
    authors
        .chain(links)
        .any(|address| address.contains(channel.as_str()))
}

fn upload(entry: Entry, channel: ChannelId) -> Option<Upload> {
    let id = entry.id.strip_prefix("yt:video:").unwrap_or(&entry.id);
    let Ok(id) = id.parse::<VideoId>() else {
        tracing::warn!(%channel, entry.id, "left out an entry that has no valid video ID");
        return None;
    };
    if let Some(author) = author(&entry)
        && author != channel
    {
        tracing::warn!(%channel, video = %id, %author, "left out an entry of another channel");
        return None;
    }

    let short = entry
        .links
        .iter()
        .any(|link| link.rel.as_deref() == Some("alternate") && link.href.contains("/shorts/"));
    let media = entry.media.into_iter().next();
    let (thumbnails, community) = media.map_or((vec![], None), |m| (m.thumbnails, m.community));

    Some(Upload {
        id,
        kind: if short { Kind::Short } else { Kind::Video },
        title: entry.title.map(|t| t.content).unwrap_or_default(),
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

fn author(entry: &Entry) -> Option<ChannelId> {
    let uri = entry.authors.first()?.uri.as_deref()?;
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

/// The document without its `media:title` and `media:description` elements.
///
/// feed-rs refuses a whole feed for one of them that is empty, as real feeds have them. plaque needs neither, and they are most
/// of a feed's bytes: what this pass costs, the parser saves.
fn without_media_texts(xml: &[u8]) -> Result<Vec<u8>, FeedError> {
    let xml = str::from_utf8(xml.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(xml))
        .map_err(|error| quick_xml::Error::Encoding(error.into()))?;
    let mut reader = Reader::from_str(xml);
    let mut kept = String::with_capacity(xml.len());
    let (mut from, mut depth) = (0, 0_usize);
    loop {
        let before = position(&reader);
        match reader.read_event()? {
            Event::Start(tag) if is_media_text(tag.name().as_ref()) => {
                kept.push_str(&xml[from..before]);
                reader.read_to_end(tag.name())?;
                from = position(&reader);
            }
            Event::Empty(tag) if is_media_text(tag.name().as_ref()) => {
                kept.push_str(&xml[from..before]);
                from = position(&reader);
            }
            Event::Start(_) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(FeedError::TooDeep);
                }
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof => break,
            _ => {}
        }
    }
    kept.push_str(&xml[from..]);
    Ok(kept.into_bytes())
}

fn is_media_text(name: &str) -> bool {
    matches!(name, "media:title" | "media:description")
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: &str = "UC0123456789abcdefghijkA";

    fn parse_entries(entries: &str) -> Result<Channel, FeedError> {
        let xml = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom">
 <id>yt:channel:</id>
 <yt:channelId></yt:channelId>
 <title>Tide &amp; Time</title>
 <author><name>Tide &amp; Time</name><uri>https://www.youtube.com/channel/{CHANNEL}</uri></author>
 <published>2015-02-01T00:00:00+00:00</published>
{entries}</feed>"#
        );
        parse(xml.as_bytes(), CHANNEL.parse().expect("valid"))
    }

    fn entry(video: &str, page: &str, published: &str, group: &str) -> String {
        format!(
            r#" <entry>
  <id>yt:video:{video}</id>
  <title>Title of {video}</title>
  <link rel="alternate" href="https://www.youtube.com/{page}"/>
  <author><name>Tide &amp; Time</name><uri>https://www.youtube.com/channel/{CHANNEL}</uri></author>
  <published>{published}</published>
  <updated>2026-01-05T00:00:00+00:00</updated>
  {group}
 </entry>
"#
        )
    }

    fn group(texts: &str) -> String {
        format!(
            r#"<media:group>{texts}
   <media:content url="https://www.youtube.com/v/x?version=3" type="application/x-shockwave-flash" width="640" height="390"/>
   <media:thumbnail url="http://i1.ytimg.com/vi/x/hqdefault.jpg" width="480" height="360"/>
   <media:community><media:starRating count="1" average="5.00" min="1" max="5"/><media:statistics views="42"/></media:community>
  </media:group>"#
        )
    }

    fn seconds(time: Option<SystemTime>) -> u64 {
        time.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |d| d.as_secs())
    }

    #[test]
    fn every_part_of_an_upload_is_read() {
        let texts = "<media:title>Title</media:title><media:description>Two\nlines &amp; &lt;b&gt;</media:description>";
        let channel = parse_entries(&entry(
            "aaaaaaaaaaA",
            "watch?v=aaaaaaaaaaA",
            "2026-01-02T03:04:05+00:00",
            &group(texts),
        ))
        .expect("a feed");
        assert_eq!(channel.title(), "Tide & Time");
        let video = channel.upload(0).expect("an upload");
        assert_eq!(video.id().as_str(), "aaaaaaaaaaA");
        assert_eq!(video.kind(), Kind::Video);
        assert_eq!(video.title(), "Title of aaaaaaaaaaA");
        assert_eq!(seconds(video.published()), 1_767_323_045);
        assert_eq!(seconds(video.updated()), 1_767_571_200);
        assert_eq!(video.views(), Some(42));
        let thumbnail = video.thumbnail().expect("a thumbnail");
        assert_eq!(thumbnail.url, "https://i1.ytimg.com/vi/x/hqdefault.jpg");
        assert_eq!((thumbnail.width, thumbnail.height), (480, 360));
    }

    #[test]
    fn an_empty_media_text_does_not_cost_the_feed() {
        for texts in [
            "<media:title></media:title>",
            "<media:title/>",
            "<media:description></media:description>",
            "<media:description/>",
            "<media:description type=\"plain\"  />",
            "<media:description><![CDATA[</media:description>]]></media:description>",
        ] {
            let channel = parse_entries(&entry(
                "aaaaaaaaaaA",
                "shorts/aaaaaaaaaaA",
                "2026-01-02T03:04:05+00:00",
                &group(texts),
            ))
            .unwrap_or_else(|error| panic!("{texts}: {error}"));
            let video = channel.upload(0).expect("an upload");
            assert_eq!((video.kind(), video.views()), (Kind::Short, Some(42)), "{texts}");
        }
    }

    #[test]
    fn uploads_are_sorted_and_those_without_a_date_come_last() {
        let entries = [
            entry("oldoldoldoA", "watch?v=1", "2025-01-01T00:00:00+00:00", ""),
            entry("undatedundA", "watch?v=2", "yesterday", ""),
            entry("newnewnewnA", "shorts/3", "2026-01-01T00:00:00+00:00", ""),
        ];
        let channel = parse_entries(&entries.concat()).expect("a feed");
        let ids: Vec<_> = channel.uploads().map(|video| video.id().to_string()).collect();
        assert_eq!(ids, ["newnewnewnA", "oldoldoldoA", "undatedundA"]);
        assert_eq!(channel.latest(Some(Kind::Video)), Some(1));
    }

    #[test]
    fn an_entry_of_another_channel_or_with_no_video_id_is_left_out() {
        let foreign = entry("foreignforA", "watch?v=1", "2026-01-01T00:00:00+00:00", "")
            .replace(CHANNEL, "UCzzzzzzzzzzzzzzzzzzzzzA");
        let nameless = entry("", "watch?v=2", "2026-01-01T00:00:00+00:00", "");
        let channel = parse_entries(&(foreign + &nameless)).expect("a feed");
        assert!(channel.is_empty(), "{channel:?}");
    }

    #[test]
    fn a_channel_without_uploads_is_a_channel() {
        assert!(parse_entries("").expect("a feed").is_empty());
    }

    #[test]
    fn a_byte_order_mark_and_blank_lines_in_front_are_skipped() {
        for front in ["\u{feff}", "\n", "\u{feff}\n "] {
            let xml = format!(
                "{front}<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>t</title>\
                 <link rel=\"self\" href=\"http://www.youtube.com/feeds/videos.xml?channel_id={CHANNEL}\"/></feed>"
            );
            parse(xml.as_bytes(), CHANNEL.parse().expect("valid"))
                .unwrap_or_else(|error| panic!("{front:?}: {error}"));
        }
    }

    #[test]
    fn the_feed_of_another_channel_is_an_error_and_not_an_empty_channel() {
        let other = "UCzzzzzzzzzzzzzzzzzzzzzA";
        for xml in [
            "<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>&j;</title></feed>",
            "<feed/>",
            "<rss version=\"2.0\"><channel><title>News</title></channel></rss>",
            "{\"version\":\"https://jsonfeed.org/version/1.1\",\"title\":\"x\",\"items\":[]}",
            &format!(
                "<feed xmlns=\"http://www.w3.org/2005/Atom\"><author><name>x</name>\
                 <uri>https://www.youtube.com/channel/{other}</uri></author></feed>"
            ),
        ] {
            let parsed = parse(xml.as_bytes(), CHANNEL.parse().expect("valid"));
            assert!(
                matches!(parsed, Err(FeedError::NotThisChannel)),
                "{xml}: {parsed:?}"
            );
        }
    }

    #[test]
    fn what_is_no_feed_is_an_error() {
        let parse = |bytes: &[u8]| parse(bytes, CHANNEL.parse().expect("valid"));
        for bytes in [
            &b""[..],
            b"not xml",
            b"<!doctype html><title>Before you continue</title>",
            b"<!doctype html><html><head><title>x</title></head><body></body></html>",
            b"<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>cut off",
            b"{\"version\": 1}",
            b"\xff\xfe\x00<",
        ] {
            let shown = String::from_utf8_lossy(bytes);
            parse(bytes).expect_err(&shown);
        }
        let deep = "<media:group>".repeat(100_000);
        assert!(matches!(parse_entries(&deep), Err(FeedError::TooDeep)));
    }
}
