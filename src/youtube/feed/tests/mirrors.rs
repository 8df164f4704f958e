//! Feeds in the shapes of Invidious and RSSHub, and of what could be one.

use super::*;

/// The feed of a channel as Invidious writes it: no `updated`, no `media:content`, the statistics beside the group, its own links.
fn invidious(site: &str, owner: &str) -> String {
    let entry = |id: &str, hour: u8| {
        format!(
            r#"<entry>
    <id>yt:video:{id}</id>
    <yt:videoId>{id}</yt:videoId>
    <yt:channelId>{owner}</yt:channelId>
    <title>Title of {id}</title>
    <link rel="alternate" href="{site}/watch?v={id}"/>
    <author><name>Tide &amp; Time</name><uri>{site}/channel/{owner}</uri></author>
    <content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><a href="{site}/watch?v={id}"><img src="{site}/vi/{id}/mqdefault.jpg"/></a></div></content>
    <published>2026-01-02T{hour:02}:04:05+00:00</published>
    <media:group>
      <media:title>Title of {id}</media:title>
      <media:thumbnail url="{site}/vi/{id}/mqdefault.jpg" width="320" height="180"/>
      <media:description></media:description>
    </media:group>
    <media:community><media:statistics views="4711"/></media:community>
  </entry>"#
        )
    };
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom" xml:lang="en-US">
  <link rel="self" href="{site}/feed/channel/{CHANNEL}"/>
  <id>yt:channel:{owner}</id>
  <yt:channelId>{owner}</yt:channelId>
  <icon>https://yt3.ggpht.com/x</icon>
  <title>Tide &amp; Time</title>
  <link rel="alternate" href="{site}/channel/{owner}"/>
  <author><name>Tide &amp; Time</name><uri>{site}/channel/{owner}</uri></author>
  {}{}</feed>"#,
        entry("olderolderA", 3),
        entry("newernewerA", 4)
    )
}

/// The feed of a channel as RSSHub writes it (`format=atom`): addresses as IDs, nothing of media, no author of the feed with an address.
fn rsshub(owner: &str, pages: &[&str]) -> String {
    let entry = |(hour, page): (usize, &&str)| {
        format!(
            r#"<entry><title>Title {hour}</title><content type="html">&lt;iframe src=&quot;https://www.youtube-nocookie.com/embed/x&quot;&gt;</content><link href="{page}"/><id>{page}</id><published>2026-01-02T{hour:02}:04:05.000Z</published><updated>2026-01-02T{hour:02}:04:05.000Z</updated><author><name>Tide &amp; Time</name></author></entry>"#
        )
    };
    let entries: String = pages.iter().enumerate().map(entry).collect();
    format!(
        r#"<feed xmlns="http://www.w3.org/2005/Atom" xmlns:rsshub="http://rsshub.app/xml/schemas" xml:lang="en"><title>Tide &amp; Time - YouTube</title><link rel="alternate" href="https://www.youtube.com/channel/{owner}"/><link rel="self" href="https://rsshub.example/youtube/channel/{CHANNEL}?format=atom" type="application/atom+xml"/><id>https://www.youtube.com/channel/{owner}</id><subtitle>YouTube channel Tide &amp; Time - Powered by RSSHub</subtitle><generator>RSSHub</generator><updated>2026-01-02T09:00:00.000Z</updated><author><name>RSSHub</name></author>{entries}</feed>"#
    )
}

fn read(xml: &str) -> Result<Channel, FeedError> {
    parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid"))
}

const OTHER: &str = "UCzzzzzzzzzzzzzzzzzzzzzA";

#[test]
fn a_feed_of_invidious_is_read_with_its_pictures_and_views() {
    let own = "https://i.ytimg.com/vi/newernewerA/hqdefault.jpg";
    for (site, picture) in [
        (
            "https://invidious.example",
            "https://invidious.example/vi/newernewerA/mqdefault.jpg",
        ),
        // A host of one's own, and an Invidious that does not know its address.
        ("http://192.0.2.1:3000", own),
        ("", own),
    ] {
        let channel = read(&invidious(site, CHANNEL)).expect(site);
        assert_eq!((channel.title(), channel.len()), ("Tide & Time", 2), "{site}");
        let newest = channel.upload(0).expect("an upload");
        assert_eq!(
            newest.url().concat(),
            "https://www.youtube.com/watch?v=newernewerA"
        );
        assert_eq!((newest.views(), newest.updated()), (Some(4711), None));
        assert_eq!(newest.thumbnail().expect("a picture").url, picture);
    }
}

#[test]
fn a_feed_of_rsshub_is_read_by_the_addresses_of_its_entries() {
    let pages = [
        "https://www.youtube.com/watch?v=aaaaaaaaaaA",
        "https://www.youtube.com/shorts/bbbbbbbbbbA",
        "https://youtu.be/ccccccccccA?si=x",
        "https://invidious.example/watch?v=ddddddddddA&amp;listen=1",
        "https://www.youtube.com/embed/eeeeeeeeeeA",
        "https://www.youtube.com/live/ffffffffffA",
        // No videos.
        "https://www.youtube.com/post/ggggggggggA",
        "https://www.youtube.com/channel/UC0123456789abcdefghijkA",
        "https://www.youtube.com/watch?v=short",
    ];
    let channel = read(&rsshub(CHANNEL, &pages)).expect("a feed");
    let uploads: Vec<_> = channel
        .uploads()
        .map(|upload| (upload.id().to_string(), upload.kind()))
        .collect();
    let expected = [
        ("ffffffffffA", Kind::Video),
        ("eeeeeeeeeeA", Kind::Video),
        ("ddddddddddA", Kind::Video),
        ("ccccccccccA", Kind::Video),
        ("bbbbbbbbbbA", Kind::Short),
        ("aaaaaaaaaaA", Kind::Video),
    ];
    assert_eq!(uploads, expected.map(|(id, kind)| (id.to_owned(), kind)));
    let short = channel.upload(4).expect("the Short");
    assert_eq!(short.url().concat(), "https://www.youtube.com/shorts/bbbbbbbbbbA");
    let thumbnail = short.thumbnail().expect("a picture");
    assert_eq!(thumbnail.url, "https://i.ytimg.com/vi/bbbbbbbbbbA/hqdefault.jpg");
    assert_eq!((thumbnail.width, thumbnail.height), (480, 360));
    assert_eq!(seconds(short.published()), 1_767_315_845);
}

#[test]
fn another_channels_feed_is_not_this_ones_whatever_it_was_asked_for() {
    let pages = ["https://www.youtube.com/watch?v=aaaaaaaaaaA"];
    for other in [
        invidious("https://invidious.example", OTHER),
        rsshub(OTHER, &pages),
    ] {
        // The address that it was requested at names the right one.
        assert!(other.contains(CHANNEL));
        let parsed = read(&other);
        assert!(parsed.as_ref().is_ok_and(Channel::is_empty), "{parsed:?}");
        let parsed = read(&other.replace(CHANNEL, ""));
        assert!(matches!(parsed, Err(FeedError::NotThisChannel)), "{parsed:?}");
    }
    // An entry of another channel in the right feed.
    let one = "/watch?v=newernewerA\"/>\n    <author><name>Tide &amp; Time</name><uri>https://invidious.example/channel/";
    let mixed = invidious("https://invidious.example", CHANNEL);
    assert!(mixed.contains(one));
    let mixed = mixed.replace(&format!("{one}{CHANNEL}"), &format!("{one}{OTHER}"));
    assert_eq!(read(&mixed).expect("a feed").len(), 1);
}

#[test]
fn an_author_needs_no_name() {
    let author = format!("<author><uri>https://mirror.example/channel/{CHANNEL}</uri></author>");
    let named = "<author><name>Tide</name></author>";
    for (of_feed, of_first, of_second, title) in [
        (&*author, "", "", "A feed"),
        ("", &*author, &*author, "A feed"),
        (&*author, &*author, named, "Tide"),
    ] {
        let channel = read(&format!(
            "<feed><title>A feed</title>{of_feed}<entry>{of_first}<id>yt:video:aaaaaaaaaaA</id></entry>\
             <entry>{of_second}<id>yt:video:bbbbbbbbbbA</id></entry></feed>"
        ));
        let channel = channel.expect("the feed of the channel");
        assert_eq!(channel.title(), title);
        assert_eq!(channel.len(), 2);
    }
    let other = author.replace(CHANNEL, OTHER);
    let other = read(&format!(
        "<feed>{author}<entry>{other}<id>yt:video:aaaaaaaaaaA</id></entry></feed>"
    ));
    assert!(other.expect("a feed").is_empty(), "it is of another channel");
}
