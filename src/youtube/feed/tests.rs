mod mirrors;

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

use super::*;
use crate::video::MAX_TEXT;

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
    parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid"))
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
    let texts =
        "<media:title>Title</media:title><media:description>Two\nlines &amp; &lt;b&gt;</media:description>";
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
        parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid"))
            .unwrap_or_else(|error| panic!("{front:?}: {error}"));
    }
}

#[test]
fn the_feed_of_another_channel_is_an_error_and_not_an_empty_channel() {
    let other = "UCzzzzzzzzzzzzzzzzzzzzzA";
    for xml in [
        "<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>&j;</title></feed>",
        "<feed/>",
        &format!(
            "<feed xmlns=\"http://www.w3.org/2005/Atom\"><author><name>x</name>\
                 <uri>https://www.youtube.com/channel/{other}</uri></author></feed>"
        ),
        // By a handle, and without anything.
        "<feed xmlns=\"http://www.w3.org/2005/Atom\"><link rel=\"alternate\" href=\"https://www.youtube.com/@other\"/>\
            <entry><id>yt:video:aaaaaaaaaaA</id><author><uri>https://www.youtube.com/@other</uri></author></entry></feed>",
        "<feed xmlns=\"http://www.w3.org/2005/Atom\"><entry><id>yt:video:aaaaaaaaaaA</id></entry></feed>",
    ] {
        let parsed = parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid"));
        assert!(
            matches!(parsed, Err(FeedError::NotThisChannel)),
            "{xml}: {parsed:?}"
        );
    }
}

#[test]
fn what_is_no_feed_is_an_error() {
    let parse = |bytes: &[u8]| parse(bytes, CHANNEL.parse::<ChannelId>().expect("valid"));
    for bytes in [
        &b""[..],
        b"not xml",
        b"<!doctype html><title>Before you continue</title>",
        b"<!doctype html><html><head><title>x</title></head><body></body></html>",
        b"<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>cut off",
        b"{\"version\": 1}",
        b"<rss version=\"2.0\"><channel><title>News</title></channel></rss>",
        // UTF-16, and ISO-8859-1.
        b"\xff\xfe<\0f\0e\0e\0d\0/\0>\0",
        b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><feed><title>gr\xfc\xdfe</title></feed>",
    ] {
        let shown = String::from_utf8_lossy(bytes);
        parse(bytes).expect_err(&shown);
    }
}

/// The only upload of a feed with this entry.
fn only(entry: &str) -> Upload {
    let channel = parse_entries(entry).unwrap_or_else(|error| panic!("{entry:.2000}: {error}"));
    assert_eq!(channel.len(), 1, "{entry:.2000}");
    channel.upload(0).expect("an upload").into()
}

/// The picture of an upload whose feed has none.
fn picture() -> Thumbnail {
    Thumbnail {
        url: "https://i.ytimg.com/vi/aaaaaaaaaaA/hqdefault.jpg".into(),
        width: 480,
        height: 360,
    }
}

fn plain() -> String {
    entry(
        "aaaaaaaaaaA",
        "watch?v=aaaaaaaaaaA",
        "2026-01-02T03:04:05+00:00",
        &group(""),
    )
}

#[test]
fn a_title_is_returned_as_it_was_written() {
    for (written, title) in [
        ("", ""),
        ("  ", "  "),
        (" between blanks ", " between blanks "),
        ("two\nlines", "two\nlines"),
        ("Tide &amp; Time &lt;3 &quot;&apos;", "Tide & Time <3 \"'"),
        ("&#x1F30A;&#65;", "🌊A"),
        ("<![CDATA[<b>bold & brave</b>]]>", "<b>bold & brave</b>"),
        ("a<![CDATA[ & ]]>b", "a & b"),
        // Invalid references are left as they are.
        ("&nbsp;&#0;&undefined;", "&nbsp;&#0;&undefined;"),
        // The text of child elements is left out.
        ("plain <b>bold</b>!", "plain !"),
        ("17", "17"),
    ] {
        let entry = plain().replace("Title of aaaaaaaaaaA", written);
        assert_eq!(only(&entry).title, title, "{written:?}");
    }
    let (title, end) = ("<title>Title of aaaaaaaaaaA", "</title>");
    let without = plain().replace(title, "").replace(end, "");
    assert_eq!(only(&without).title, "");
    let empty = plain()
        .replace(title, "<title/")
        .replace("<title/</title>", "<title/>");
    assert_eq!(only(&empty).title, "");
    let two = plain().replace(title, &format!("<title>first</title>{title}"));
    assert_eq!(only(&two).title, "first");
}

#[test]
fn an_upload_without_media_or_dates_is_an_upload() {
    let bare = |group: &str| {
        only(&entry(
            "aaaaaaaaaaA",
            "watch?v=1",
            "2026-01-02T03:04:05+00:00",
            group,
        ))
    };
    let content = "<media:content url=\"https://www.youtube.com/v/x\"/>";
    for absent in [
        "",
        "<media:group/>",
        "<media:group><media:thumbnail url=\"x\"/></media:group>",
    ] {
        let upload = bare(absent);
        assert_eq!(
            (upload.thumbnail, upload.views),
            (Some(picture()), None),
            "{absent}"
        );
    }
    // A scheduled stream is announced, but was not viewed yet.
    let views = |views: &str| {
        let statistics = format!("<media:statistics views=\"{views}\"/>");
        bare(&format!(
            "<media:group>{content}<media:community>{statistics}</media:community></media:group>"
        ))
    };
    assert_eq!(views("0").views, Some(0));
    assert_eq!(views("many").views, None);
    assert_eq!(views("-1").views, None);

    for date in ["", "yesterday", "2026-13-01T00:00:00+00:00", "2026-01-02"] {
        let upload = only(&entry("aaaaaaaaaaA", "watch?v=1", date, ""));
        assert_eq!(upload.published, None, "{date}");
    }
    let published = "<published>2026-01-02T03:04:05+00:00</published>";
    assert_eq!(only(&plain().replace(published, "")).published, None);
}

#[test]
fn what_a_feed_says_twice_counts_once_and_what_it_took_back_does_not_count() {
    let later = plain().replace("Title of", "Edited title of");
    let deleted = "<at:deleted-entry xmlns:at=\"http://purl.org/atompub/tombstones/1.0\" ref=\"yt:video:x\" \
                   when=\"2026-01-01T00:00:00Z\"><link href=\"https://www.youtube.com/watch?v=x\"/></at:deleted-entry>";
    let upload = only(&(plain() + &later + deleted));
    assert_eq!(upload.title, "Title of aaaaaaaaaaA");
}

#[test]
fn links_of_any_age_are_understood() {
    let old = plain()
        .replace("https://www.youtube.com", "http://www.youtube.com")
        .replace("watch?v=", "shorts/");
    let upload = only(&old);
    assert_eq!(upload.kind, Kind::Short);
    let thumbnail = upload.thumbnail.expect("a thumbnail").url;
    assert!(thumbnail.starts_with("https://"), "{thumbnail}");
    // The kind does not follow from a page that is not the video's own.
    let related = plain().replace(
        "rel=\"alternate\" href=\"https://www.youtube.com/watch?v=",
        "rel=\"related\" href=\"/shorts/",
    );
    assert_eq!(only(&related).kind, Kind::Video);
}

#[test]
fn a_playlist_of_a_kind_is_of_that_kind_and_may_be_empty() {
    let channel: ChannelId = CHANNEL.parse().expect("valid");
    let feed = |entries: &str| {
        let link = format!(
            "http://www.youtube.com/feeds/videos.xml?playlist_id=UUSH{}",
            channel.unprefixed()
        );
        format!(
            "<feed xmlns=\"http://www.w3.org/2005/Atom\"><link rel=\"self\" href=\"{link}\"/>\
             <yt:playlistId>UUSHx</yt:playlistId><title>Short videos</title>{entries}</feed>"
        )
    };
    let of = Feed {
        channel,
        kind: Some(Kind::Short),
    };
    let shorts = parse(feed(&plain()).as_bytes(), of).expect("a feed");
    assert_eq!(shorts.title(), "Tide & Time", "not the playlist's");
    assert_eq!(shorts.latest(Some(Kind::Short)), Some(0));
    assert!(parse(feed("").as_bytes(), of).expect("a feed").is_empty());
}

/// A collaboration: an entry of another channel.
fn foreign(video: &str) -> String {
    plain()
        .replace("aaaaaaaaaaA", video)
        .replace(CHANNEL, "UCzzzzzzzzzzzzzzzzzzzzzA")
        .replace("Tide &amp; Time", "Another")
}

#[test]
fn the_author_of_a_collaboration_does_not_name_the_channel() {
    let first = parse_entries(&(foreign("foreignforA") + &plain())).expect("a feed");
    assert_eq!((first.title(), first.len()), ("Tide & Time", 1));
    let alone = parse_entries(&foreign("foreignforA")).expect("a feed");
    assert_eq!((alone.title(), alone.len()), ("Tide & Time", 0));
    // Not even if the feed itself has no author.
    let xml = format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>A feed</title>\
         <link rel=\"self\" href=\"http://www.youtube.com/feeds/videos.xml?channel_id={CHANNEL}\"/>{}</feed>",
        foreign("foreignforA")
    );
    let unnamed = parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid"));
    assert_eq!(unnamed.expect("a feed").title(), "A feed");
    let author = "<uri>https://www.youtube.com/channel/UC0123456789abcdefghijkA</uri>";
    let without_address = parse_entries(&(foreign("foreignforA") + &plain().replace(author, "")));
    assert_eq!(without_address.expect("a feed").title(), "Tide & Time");
}

#[test]
fn collaborations_take_places_in_a_full_feed() {
    let entries = |own: usize, others: usize| {
        let own = (0..own).map(|number| plain().replace("aaaaaaaaaaA", &format!("aaaaa{number:05}A")));
        let others = (0..others).map(|number| foreign(&format!("bbbbb{number:05}A")));
        let channel = parse_entries(&own.chain(others).collect::<String>()).expect("a feed");
        (channel.len(), channel.is_full())
    };
    assert_eq!(entries(14, 0), (14, false));
    assert_eq!(entries(14, 1), (14, true));
    assert_eq!(entries(15, 0), (15, true));
    assert_eq!(entries(3, 11), (3, false));
}

#[test]
fn feeds_of_any_length_are_read() {
    for (entries, kept) in [(0, 0), (1, 1), (500, 15), (3000, 15)] {
        let entries: String = (0..entries)
            .map(|number| plain().replace("aaaaaaaaaaA", &format!("aaaaa{number:05}A")))
            .collect();
        assert_eq!(parse_entries(&entries).expect("a feed").len(), kept);
    }
}

/// Each of these takes feed-rs alone minutes, gigabytes or the stack.
#[test]
fn what_nests_or_repeats_without_end_costs_nothing_and_changes_nothing() {
    let many = 20_000;
    let within = |what: &str| plain().replace("</media:group>", &format!("{what}</media:group>"));
    for entry in [
        plain().replace(
            "</entry>",
            &format!("{}{}</entry>", "<x>".repeat(many), "</x>".repeat(many)),
        ),
        within(&format!(
            "{}{}",
            "<media:group>".repeat(many),
            "</media:group>".repeat(many)
        )),
        within(&"<media:thumbnail url=\"a\"/><media:content url=\"https://a.b/\"/>".repeat(many)),
        plain().replace(
            "<link ",
            &format!(
                "<link {} ",
                (0..many).fold(String::new(), |tag, n| tag + &format!("a{n}=\"\" "))
            ),
        ),
        plain().replace(
            "<entry>",
            &format!("<entry xml:base=\"https://a.b/{}\">", "x".repeat(many)),
        ),
        plain().replace(
            "<title>",
            &format!("<summary>{}</summary><title>", "&amp;".repeat(many)),
        ),
        plain() + &"<entry/>".repeat(many),
        plain() + &"<author><name/></author><category term=\"\"/>".repeat(many),
    ] {
        assert_eq!(only(&entry).title, "Title of aaaaaaaaaaA");
    }
    let entities = "<!DOCTYPE feed [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
    let xml = format!(
        "{entities}<feed><author><name>x</name><uri>youtube.com/channel/{CHANNEL}</uri></author><title>&b;</title></feed>"
    );
    let channel = parse(xml.as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid")).expect("a feed");
    assert_eq!(channel.title(), "&b;");
}

#[test]
fn a_feed_that_ends_in_the_middle_is_an_error_wherever_that_is() {
    let xml = format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\">{}</feed>",
        plain() + &plain()
    );
    for end in 0..xml.len() {
        let cut = parse(
            &xml.as_bytes()[..end],
            CHANNEL.parse::<ChannelId>().expect("valid"),
        );
        cut.expect_err(&xml[..end]);
    }
}

/// An entry as a channel could have written it.
#[derive(Clone, Debug)]
struct Written {
    number: u16,
    title: Option<String>,
    /// In seconds since 1970.
    published: Option<u32>,
    short: bool,
    views: Option<u32>,
}

impl Written {
    fn id(&self) -> String {
        format!("aaaaa{:05}A", self.number)
    }

    fn xml(&self) -> String {
        let id = self.id();
        let page = if self.short { "shorts/" } else { "watch?v=" };
        let title = self.title.as_ref().map_or(String::new(), |title| {
            format!("<title>{}</title>", quick_xml::escape::escape(title))
        });
        let published = self.published.map_or(String::new(), |seconds| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
            format!(
                "<published>{}</published>",
                humantime::format_rfc3339_seconds(time)
            )
        });
        let group = self.views.map_or(String::new(), |views| {
            group("").replace("views=\"42\"", &format!("views=\"{views}\""))
        });
        entry(&id, &format!("{page}{id}"), "", &group)
            .replace(&format!("<title>Title of {id}</title>"), &title)
            .replace("<published></published>", &published)
    }
}

fn written() -> impl Strategy<Value = Written> {
    let title = prop_oneof![
        1 => Just(None),
        1 => Just(Some(String::new())),
        4 => any::<String>().prop_map(Some),
        2 => "[ &<>;\\]!\\[CDAT\n]{0,20}".prop_map(Some),
    ];
    let published = prop::option::weighted(0.9, any::<u32>());
    let views = prop::option::of(any::<u32>());
    (any::<u16>(), title, published, any::<bool>(), views).prop_map(
        |(number, title, published, short, views)| Written {
            number,
            title,
            published,
            short,
            views,
        },
    )
}

fn feed_of(entries: &[Written]) -> String {
    let entries: String = entries.iter().map(Written::xml).collect();
    format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\" xmlns:media=\"http://search.yahoo.com/mrss/\">\
         <link rel=\"self\" href=\"http://www.youtube.com/feeds/videos.xml?channel_id={CHANNEL}\"/>{entries}</feed>"
    )
}

proptest! {
    #![proptest_config(Config {
        cases: 500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(4),
        ..Config::default()
    })]

    #[test]
    fn what_was_written_is_what_is_read(entries in prop::collection::vec(written(), 0..20)) {
        let channel = parse(feed_of(&entries).as_bytes(), CHANNEL.parse::<ChannelId>().expect("valid")).expect("a feed");
        // Newest first, those without a date last, each once; otherwise in their order.
        let mut expected: Vec<&Written> = entries.iter().collect();
        expected.sort_by_key(|entry| Reverse(entry.published));
        let mut seen = HashSet::new();
        expected.retain(|entry| seen.insert(entry.number));
        expected.truncate(15);
        prop_assert_eq!(channel.len(), expected.len());
        for (upload, wanted) in channel.uploads().zip(expected) {
            prop_assert_eq!(upload.id().to_string(), wanted.id());
            prop_assert_eq!(upload.title(), wanted.title.as_deref().unwrap_or(""));
            prop_assert_eq!(upload.kind() == Kind::Short, wanted.short);
            prop_assert_eq!(upload.views(), wanted.views.map(u64::from));
            prop_assert_eq!(seconds(upload.published()), u64::from(wanted.published.unwrap_or(0)));
        }
    }

    #[test]
    fn what_is_broken_is_read_or_is_an_error(
        entries in prop::collection::vec(written(), 0..5),
        breaks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8),
    ) {
        let mut xml = feed_of(&entries).into_bytes();
        for (at, byte, how) in breaks {
            let at = at.index(xml.len().max(1));
            match how {
                _ if xml.is_empty() => {}
                0 => xml[at] = byte,
                1 => _ = xml.remove(at),
                2 => xml.insert(at, byte),
                _ => xml.truncate(at),
            }
        }
        let ids: Vec<_> = entries.iter().map(Written::id).collect();
        if let Ok(channel) = parse(&xml, CHANNEL.parse::<ChannelId>().expect("valid")) {
            prop_assert!(channel.len() <= ids.len());
        }
    }
}

#[test]
fn texts_are_cut_and_thumbnails_are_of_https() {
    let of = |address: &str| {
        let picture = group("").replace("http://i1.ytimg.com/vi/x/hqdefault.jpg", address);
        let long = entry(
            "0123456789A",
            "watch?v=0123456789A",
            "2026-01-04T00:00:00+00:00",
            &picture,
        );
        let title = format!("<title>{}", "ü".repeat(5000));
        let channel = parse_entries(&long.replace("<title>", &title)).expect("a feed");
        let video = channel.upload(0).expect("one");
        assert_eq!(video.title(), "ü".repeat(MAX_TEXT / 2));
        video.thumbnail().map(|thumbnail| thumbnail.url)
    };
    assert_eq!(
        of("http://e.example/a.jpg").as_deref(),
        Some("https://e.example/a.jpg")
    );
    for bad in [
        "javascript:alert(1)",
        "ftp://e.example/",
        "http://192.0.2.1:3000/vi/0123456789A/mqdefault.jpg",
        "/vi/0123456789A/mqdefault.jpg",
        "https://e.example/&#x85;a",
        "https://e.example/&#x202e;a",
    ] {
        let own = "https://i.ytimg.com/vi/0123456789A/hqdefault.jpg";
        assert_eq!(of(bad).as_deref(), Some(own), "{bad}");
    }
}
