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
    let told = "\n  fetched 3 hours ago (2026-07-02T14:00:35Z): the server has no newer answer yet\n  https";
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
    let title =
        "a\u{1b}[31mb\tc\r\nd\u{9b}2Je\u{85}f\u{2028}g\u{202e}h\u{7}i\u{200f}j\u{7f}k\u{61c}lü€✈\u{fe0f}\"\\";
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

#[test]
fn numbers_are_grouped_for_people() {
    for (number, shown) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (123_456, "123,456"),
        (1_234_567, "1,234,567"),
        (u64::MAX, "18,446,744,073,709,551,615"),
    ] {
        assert_eq!(grouped(number), shown);
    }
}

#[test]
fn a_failure_says_when_to_try_again_and_never_too_early() {
    for (milliseconds, shown) in [
        (None, "gone (GONE)"),
        (Some(5000), "gone (GONE); try again in 5 s"),
        (Some(5001), "gone (GONE); try again in 6 s"),
        (Some(119_000), "gone (GONE); try again in 119 s"),
        (Some(120_001), "gone (GONE); try again in 3 min"),
    ] {
        let pause = milliseconds.map(Duration::from_millis);
        let failure = LookupFailure {
            message: "gone".into(),
            reason: "GONE".into(),
            retry_after: pause.and_then(|pause| pause.try_into().ok()),
            ..LookupFailure::default()
        };
        assert_eq!(reason(&failure), shown);
    }
}
