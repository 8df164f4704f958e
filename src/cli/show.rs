//! Prints uploads and failures: for people on a terminal, elsewhere as lines of fields.
//!
//! Texts from the network may contain anything, and are only printed through [`printable`].

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::SystemTime,
};

use anstyle::{AnsiColor, Style};
use http::Uri;
use prost_types::Timestamp;

use crate::{
    proto::v1::{Freshness, LookupFailure, LookupResult, Video, VideoKind, lookup_result::Outcome},
    video::steers,
};

const TITLE: Style = Style::new().bold();
const DETAILS: Style = Style::new().dimmed();
const LINK: Style = AnsiColor::Cyan.on_default();
const STALE: Style = AnsiColor::Yellow.on_default();

pub(super) fn upload(video: &Video, freshness: Option<Freshness>) -> io::Result<()> {
    if io::stdout().is_terminal() {
        let described = describe(video, freshness, SystemTime::now());
        // anstream leaves out colors where NO_COLOR and similar variables say so.
        writeln!(anstream::stdout(), "{described}")
    } else {
        writeln!(io::stdout(), "{}", fields(video))
    }
}

/// Prints a message as protobuf's JSON to standard output, on one line.
pub(super) fn json(json: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", escape_json(json))
}

pub(super) fn failure(channel: &str, failure: &LookupFailure) -> io::Result<()> {
    print_error(&format!("{channel}: {} ({})", failure.message, failure.reason))
}

/// Prints to standard error that the connection was lost and that the client reconnects.
pub(super) fn reconnecting(server: &Uri, why: &LookupFailure) -> io::Result<()> {
    print_error(&format!(
        "lost {server}: {} ({}); reconnecting",
        why.message, why.reason
    ))
}

pub(super) fn print_error(message: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{}", printable(message))
}

pub(super) fn result(result: &LookupResult) -> io::Result<()> {
    match &result.outcome {
        Some(Outcome::Found(found)) => upload(&found.video.clone().unwrap_or_default(), found.freshness),
        Some(Outcome::Failure(why)) => failure(&result.channel_id, why),
        None => Ok(()),
    }
}

/// An upload for people, with colors.
fn describe(video: &Video, freshness: Option<Freshness>, now: SystemTime) -> String {
    let title = match video.title.as_str() {
        "" => "(no title)".into(),
        title => printable(title),
    };
    let kind = match video.kind() {
        VideoKind::Short => "Short",
        VideoKind::Video => "video",
        VideoKind::Unspecified => "upload",
    };
    let channel = printable(&video.channel_title);
    let published = when(video.publish_time, now);
    let views = match video.view_count {
        Some(1) => ", 1 view".into(),
        Some(views) => format!(", {views} views"),
        None => String::new(),
    };
    let stale = match freshness {
        Some(Freshness {
            fetch_time,
            stale: true,
            ..
        }) => {
            let fetched = when(fetch_time, now);
            format!("  {STALE}fetched {fetched}: the server has no newer answer yet{STALE:#}\n")
        }
        _ => String::new(),
    };
    let url = printable(&video.url);
    format!(
        "{TITLE}{title}{TITLE:#}\n  {DETAILS}{kind} by {channel}, {published}{views}{DETAILS:#}\n{stale}  {LINK}{url}{LINK:#}"
    )
}

/// An upload for programs: one line of fields separated by tabs. The title comes last because it may be empty. The help of `get`, `list`
/// and `watch` documents the format.
fn fields(video: &Video) -> String {
    let published = match video.publish_time {
        Some(time) => time.to_string(),
        // The `read` of a shell takes two tabs for one.
        None => "-".into(),
    };
    let kind = match video.kind() {
        VideoKind::Short => "short",
        VideoKind::Video => "video",
        VideoKind::Unspecified => "-",
    };
    [
        &video.video_id,
        &video.channel_id,
        &published,
        kind,
        &video.url,
        &video.title,
    ]
    .map(printable)
    .join("\t")
}

/// For example `4 months ago (2026-07-01T14:00:35Z)`. The age is as of now, and the output of `watch` may be read later.
fn when(time: Option<Timestamp>, now: SystemTime) -> String {
    let Some(mut time) = time else {
        return "at an unknown time".into();
    };
    time.nanos = 0;
    let age = SystemTime::try_from(time)
        .ok()
        .and_then(|then| now.duration_since(then).ok());
    match age {
        Some(age) => format!("{} ({time})", timeago::Formatter::new().convert(age)),
        None => time.to_string(),
    }
}

/// One line that cannot control the terminal: without control characters, line separators, and changes of direction that outlast the text.
fn printable(text: &str) -> String {
    text.replace(steers, " ")
}

/// The same JSON without characters that control the terminal: they only occur within strings, where each can be escaped.
fn escape_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) {
            // Writing to a String does not fail, and all of them are below U+10000.
            let _ = write!(harmless, "\\u{:04x}", u32::from(c));
        } else {
            harmless.push(c);
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anstream::adapter::strip_str;

    use super::*;

    const PUBLISHED: Duration = Duration::from_secs(1_782_914_435);

    fn at(time: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + time
    }

    fn days(days: u64) -> Duration {
        Duration::from_hours(24 * days)
    }

    fn video() -> Video {
        Video {
            video_id: "aaaaaaaaaaA".into(),
            channel_id: "UC0123456789abcdefghijkA".into(),
            channel_title: "Tide".into(),
            title: "High water".into(),
            url: "https://www.youtube.com/shorts/aaaaaaaaaaA".into(),
            kind: VideoKind::Short.into(),
            publish_time: Some(at(PUBLISHED).into()),
            view_count: Some(7),
            ..Video::default()
        }
    }

    #[test]
    fn people_see_the_title_the_age_and_the_link() {
        let described = describe(&video(), None, at(PUBLISHED + days(130)));
        assert_eq!(
            strip_str(&described).to_string(),
            "High water\n  Short by Tide, 4 months ago (2026-07-01T14:00:35Z), 7 views\n  \
             https://www.youtube.com/shorts/aaaaaaaaaaA"
        );
        assert!(
            described.starts_with("\u{1b}[1mHigh water\u{1b}[0m\n"),
            "{described:?}"
        );
        for style in [TITLE, DETAILS, LINK] {
            assert!(described.contains(&style.render().to_string()), "{described:?}");
        }
    }

    #[test]
    fn people_see_that_an_answer_is_old() {
        let fetched = at(PUBLISHED + days(1) + Duration::from_millis(500));
        let described = |stale| {
            let freshness = Freshness {
                fetch_time: Some(fetched.into()),
                stale,
                ..Freshness::default()
            };
            describe(&video(), Some(freshness), fetched + Duration::from_hours(3))
        };
        let told =
            "\n  fetched 3 hours ago (2026-07-02T14:00:35Z): the server has no newer answer yet\n  https";
        assert!(
            strip_str(&described(true)).to_string().contains(told),
            "{}",
            described(true)
        );
        assert!(!described(false).contains("fetched"), "{}", described(false));
    }

    #[test]
    fn ages_are_in_the_largest_unit() {
        for (age, shown) in [
            (Duration::ZERO, "now"),
            (Duration::from_secs(1), "1 second ago"),
            (Duration::from_secs(119), "1 minute ago"),
            (Duration::from_hours(47), "1 day ago"),
            (days(15), "2 weeks ago"),
            (days(800), "2 years ago"),
        ] {
            let expected = format!("{shown} (2026-07-01T14:00:35Z)");
            assert_eq!(when(Some(at(PUBLISHED).into()), at(PUBLISHED + age)), expected);
        }
        // By a clock that is behind.
        assert_eq!(
            when(Some(at(PUBLISHED).into()), SystemTime::UNIX_EPOCH),
            "2026-07-01T14:00:35Z"
        );
        assert_eq!(when(None, at(PUBLISHED)), "at an unknown time");
    }

    #[test]
    fn any_time_can_be_printed() {
        for (seconds, shown) in [
            (i64::MIN, "Z"),
            (-1, "56 years ago (1969-12-31T23:59:59Z)"),
            (253_402_300_800, "+10000-01-01T00:00:00Z"),
            (i64::MAX, "Z"),
        ] {
            let publish_time = Some(Timestamp { seconds, nanos: 0 });
            let video = Video {
                publish_time,
                ..video()
            };
            let described = describe(&video, None, at(PUBLISHED));
            assert!(described.contains(shown), "{described}");
            assert_eq!(fields(&video).split('\t').count(), 6, "{}", fields(&video));
        }
    }

    #[test]
    fn programs_get_six_fields_of_a_line() {
        assert_eq!(
            fields(&video()),
            "aaaaaaaaaaA\tUC0123456789abcdefghijkA\t2026-07-01T14:00:35Z\tshort\t\
             https://www.youtube.com/shorts/aaaaaaaaaaA\tHigh water"
        );
        let bare = Video {
            title: String::new(),
            publish_time: None,
            kind: VideoKind::Video.into(),
            ..video()
        };
        assert_eq!(
            fields(&bare),
            "aaaaaaaaaaA\tUC0123456789abcdefghijkA\t-\tvideo\thttps://www.youtube.com/shorts/aaaaaaaaaaA\t"
        );
    }

    #[test]
    fn json_steers_nothing_and_says_the_same() {
        let title = "a\u{1b}[31mb\tc\r\nd\u{9b}2Je\u{85}f\u{2028}g\u{202e}h\u{7}i\u{200f}j\u{7f}k\u{61c}lü€✈\u{fe0f}\"\\";
        let json = serde_json::json!({ "title": title, "number": 7 }).to_string();
        let harmless = escape_json(&json);
        assert!(json.contains(steers) && !harmless.contains(steers), "{harmless}");
        assert!(harmless.contains("ü€✈"), "{harmless}");
        let read: serde_json::Value = serde_json::from_str(&harmless).expect("JSON");
        assert_eq!(
            read,
            serde_json::from_str::<serde_json::Value>(&json).expect("JSON")
        );
    }

    #[test]
    fn what_comes_from_the_network_steers_nothing() {
        let evil = "a\u{1b}[31mb\tc\r\nd\u{9b}2Je\u{85}f\u{2028}g\u{202e}h\u{7}i";
        let video = Video {
            video_id: evil.into(),
            channel_id: evil.into(),
            channel_title: evil.into(),
            title: evil.into(),
            url: evil.into(),
            ..video()
        };
        let harmless = "a [31mb c  d 2Je f g h i";
        assert_eq!(
            fields(&video),
            [
                harmless,
                harmless,
                "2026-07-01T14:00:35Z",
                "short",
                harmless,
                harmless
            ]
            .join("\t")
        );
        assert_eq!(
            strip_str(&describe(&video, None, at(PUBLISHED))).to_string(),
            format!("{harmless}\n  Short by {harmless}, now (2026-07-01T14:00:35Z), 7 views\n  {harmless}")
        );
    }
}
