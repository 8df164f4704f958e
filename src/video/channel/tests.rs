use std::time::Duration;

use super::*;
use crate::video::MAX_TEXT;

fn id() -> ChannelId {
    "UC0123456789abcdefghijkA".parse().expect("valid")
}

/// An upload that has everything; of two, the one with the greater `number` is newer.
fn upload(number: u32) -> Upload {
    let id = format!("upload{number:04}A");
    Upload {
        title: format!("Upload {number}"),
        kind: if number.is_multiple_of(3) {
            Kind::Short
        } else {
            Kind::Video
        },
        published: Some(time(1_700_000_000_000_000_000 + i64::from(number))),
        updated: Some(time(1_800_000_000_000_000_000 - i64::from(number))),
        thumbnail: Some(thumbnail(
            &format!("https://i3.ytimg.com/vi/{id}/hqdefault.jpg"),
            480,
            360,
        )),
        views: Some(number.into()),
        id: id.parse().expect("valid"),
    }
}

fn time(nanos: i64) -> SystemTime {
    let apart = Duration::from_nanos(nanos.unsigned_abs());
    match nanos {
        0.. => SystemTime::UNIX_EPOCH + apart,
        _ => SystemTime::UNIX_EPOCH - apart,
    }
}

fn thumbnail(url: &str, width: u32, height: u32) -> Thumbnail {
    Thumbnail {
        url: url.into(),
        width,
        height,
    }
}

/// Puts `uploads`, which are in order, in a channel and takes them out again.
#[track_caller]
fn round_trip(title: &str, uploads: &[Upload]) -> Channel {
    let channel = Channel::new(id(), title, uploads.to_owned());
    assert_eq!((channel.id(), channel.title()), (id(), title));
    assert_eq!(channel.len(), uploads.len());
    assert_eq!(channel.is_empty(), uploads.is_empty());
    assert_eq!(channel.uploads().map(Upload::from).collect::<Vec<_>>(), uploads);
    assert!(channel.upload(uploads.len()).is_none());
    channel
}

#[test]
fn a_channel_returns_the_uploads_it_was_built_from() {
    for title in ["", "Tide & Time", "größte 日本 🌊"] {
        for count in [0, 1, 15] {
            round_trip(title, &(0..count).rev().map(upload).collect::<Vec<_>>());
        }
    }
}

#[test]
fn unusual_uploads_round_trip() {
    let ordinary = upload(0);
    let usual = ordinary.thumbnail.clone().expect("it has everything").url;
    let titled = |title: &str| Upload {
        title: title.into(),
        ..ordinary.clone()
    };
    let counted = |views| Upload {
        views: Some(views),
        ..ordinary.clone()
    };
    let pictured = |url: &str, width, height| Upload {
        thumbnail: Some(thumbnail(url, width, height)),
        ..ordinary.clone()
    };
    let changed = |nanos| Upload {
        updated: Some(time(nanos)),
        ..ordinary.clone()
    };
    let bare = Upload {
        published: None,
        updated: None,
        thumbnail: None,
        views: None,
        ..titled("")
    };
    let hard = vec![
        titled(""),
        titled("größte 日本 🌊"),
        titled(&"🌊".repeat(MAX_TEXT / 4)),
        counted(0),
        counted(u64::MAX),
        pictured("https://i", 0, 0),
        pictured(&usual, 0, u32::from(u16::MAX)),
        pictured(&usual, 480, 65_536),
        pictured(&usual, u32::MAX, 360),
        pictured(&usual.replace("i3", "i"), 480, 360),
        pictured(&usual.replace("i3", "i10"), 480, 360),
        pictured(&usual.replace("i3", "iß"), 480, 360),
        pictured(&usual.replace("upload0000A", "upload0001A"), 480, 360),
        pictured(&format!("{usual}?v=1"), 480, 360),
        pictured("https://example.com/größte/日本.jpg", 1, 2),
        changed(0),
        changed(-1),
        changed(1_626_709_245_613_264_165), // of a notification
        changed(-1_000_000_000_000_000_001),
        changed(i64::MAX),
        changed(-i64::MAX),
        ordinary.clone(),
        bare,
    ];
    for upload in &hard {
        round_trip("Alone", std::slice::from_ref(upload));
    }
    for together in hard.chunks(MAX_UPLOADS) {
        let named = together.iter().zip(1..).map(|(hard, number)| Upload {
            id: upload(number).id,
            ..hard.clone()
        });
        round_trip("Together", &named.collect::<Vec<_>>());
    }
}

#[test]
fn uploads_are_sorted_and_those_without_a_valid_date_come_last() {
    let at = |number, published| Upload {
        published,
        ..upload(number)
    };
    let too_late = time(i64::MAX) + Duration::from_nanos(1);
    let too_early = time(-i64::MAX) - Duration::from_nanos(1);
    let channel = Channel::new(
        id(),
        "",
        vec![
            at(1, None),
            at(2, Some(time(-1))),
            at(3, Some(time(5))),
            at(4, Some(too_late)),
            at(5, Some(time(6))),
            at(6, Some(time(5))),
            at(7, Some(too_early)),
        ],
    );
    let order: Vec<_> = channel
        .uploads()
        .map(|video| (video.title(), video.published()))
        .collect();
    let expected = [
        ("Upload 5", Some(time(6))),
        ("Upload 3", Some(time(5))),
        ("Upload 6", Some(time(5))),
        ("Upload 2", Some(time(-1))),
        ("Upload 1", None),
        ("Upload 4", None),
        ("Upload 7", None),
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_newest_15_are_kept_each_once() {
    let mut uploads: Vec<_> = (0..500).map(upload).collect();
    uploads.extend((0..500).map(upload));
    let channel = Channel::new(id(), "", uploads.clone());
    uploads.truncate(500);
    uploads.sort_by_key(|upload| Reverse(upload.published));
    let newest: Vec<_> = uploads[..MAX_UPLOADS].iter().map(|upload| upload.id).collect();
    let kept: Vec<_> = channel.uploads().map(|video| video.id()).collect();
    assert_eq!(kept, newest);
}

#[test]
fn a_channel_is_full_if_its_feed_was() {
    let of = |uploads: u32| Channel::new(id(), "", (0..uploads).map(upload).collect());
    assert!(!of(14).is_full() && of(15).is_full() && of(16).is_full());
    assert!(!of(14).with_entries(14).is_full() && of(14).with_entries(15).is_full());
    // Fewer entries than uploads there are not.
    assert!(of(15).with_entries(0).is_full());
    let twice = Channel::new(id(), "", (0..8).chain(0..8).map(upload).collect());
    assert!(!twice.is_full());
}

#[test]
fn two_feeds_of_a_channel_are_merged_newest_first() {
    let of = |title, numbers: &[u32]| {
        Channel::new(
            id(),
            title,
            numbers.iter().map(|number| upload(*number)).collect(),
        )
    };
    let ids = |channel: &Channel| channel.uploads().map(|video| video.id()).collect::<Vec<_>>();
    let merged = of("Name", &[1, 4]).merged(&of("Another name", &[2, 4]));
    assert_eq!(ids(&merged), ids(&of("", &[1, 2, 4])));
    assert_eq!((merged.title(), merged.is_full()), ("Name", false));
    let one_empty = of("Videos", &[]).merged(&of("Name", &[2]).with_entries(15));
    assert_eq!((one_empty.title(), one_empty.is_full()), ("Name", true));
    let many = of("", &(0..10).collect::<Vec<_>>()).merged(&of("", &(10..20).collect::<Vec<_>>()));
    assert_eq!((many.len(), many.is_full()), (MAX_UPLOADS, true));
}

#[test]
fn the_uploads_of_one_kind_are_a_channel_of_that_name() {
    let channel = round_trip("Name", &[upload(5), upload(3), upload(1), upload(0)]);
    let shorts = channel.only(Kind::Short);
    assert_eq!((shorts.title(), shorts.id()), ("Name", id()));
    assert!(shorts.uploads().all(|video| video.kind() == Kind::Short));
    assert_eq!(shorts.len() + channel.only(Kind::Video).len(), channel.len());
}

#[test]
fn uploads_of_one_moment_keep_their_order() {
    // More than the 20 that every sort of the standard library keeps in order.
    let mixed = (0..100).map(|number| Upload {
        published: Some(time(i64::from(number % 10 == 1))),
        ..upload(number)
    });
    let channel = Channel::new(id(), "", mixed.collect());
    let order: Vec<_> = channel.uploads().filter_map(|video| video.views()).collect();
    let expected: Vec<_> = (1..100).step_by(10).chain([0, 2, 3, 4, 5]).collect();
    assert_eq!(order, expected);
}

#[test]
fn the_latest_is_the_first_of_its_kind() {
    let channel = round_trip("", &[upload(5), upload(4), upload(3), upload(0)]);
    assert_eq!(channel.latest(None), Some(0));
    assert_eq!(channel.latest(Some(Kind::Short)), Some(2));
    assert_eq!(round_trip("", &[upload(1)]).latest(Some(Kind::Short)), None);
    assert_eq!(round_trip("", &[]).latest(None), None);
}

#[test]
fn a_video_has_the_address_of_its_page() {
    let channel = round_trip("", &[upload(1), upload(0)]);
    let pages: Vec<_> = channel.uploads().map(|video| video.url().concat()).collect();
    assert_eq!(
        pages,
        [
            "https://www.youtube.com/watch?v=upload0001A",
            "https://www.youtube.com/shorts/upload0000A"
        ]
    );
}

#[test]
fn an_upload_takes_48_bytes_and_its_title() {
    assert_eq!(size_of::<Record>(), 48);
    let of_titles = |length: usize| {
        let titled = |number| Upload {
            title: "x".repeat(length),
            ..upload(number)
        };
        round_trip("", &(0..15).rev().map(titled).collect::<Vec<_>>()).weight()
    };
    // 15 × 48 = 720 and 15 × 55 = 825, each rounded up to a size of the allocator's.
    assert_eq!(of_titles(0), size_of::<Channel>() + 768);
    assert_eq!(of_titles(55), size_of::<Channel>() + 768 + 896);
    assert_eq!(round_trip("", &[]).weight(), size_of::<Channel>());
}

#[test]
fn allocations_are_rounded_to_the_allocators_sizes() {
    let sizes = [0, 1, 16, 17, 64, 65, 81, 128, 129, 161, 256, 257, 1000, 1025].map(allocated);
    assert_eq!(
        sizes,
        [0, 16, 16, 32, 64, 80, 96, 128, 160, 192, 256, 320, 1024, 1280]
    );
}

#[test]
fn texts_and_thumbnails_beyond_the_bounds_are_cut_or_dropped() {
    let spoiled = |url: &str| Upload {
        title: "€".repeat(1000),
        thumbnail: Some(thumbnail(url, 1, 1)),
        ..upload(1)
    };
    for url in [
        "",
        "http://example.com/",
        "javascript:alert(1)",
        "https://example.com/\n",
    ] {
        let channel = Channel::new(id(), &"x".repeat(MAX_TEXT + 1), vec![spoiled(url)]);
        assert_eq!(channel.title(), "x".repeat(MAX_TEXT));
        let video = channel.upload(0).expect("one");
        assert_eq!(
            (video.title(), video.thumbnail()),
            ("€".repeat(MAX_TEXT / 3).as_str(), None),
            "{url:?}"
        );
    }
}
