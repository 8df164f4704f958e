use super::*;
use crate::video::{ChannelId, MAX_TEXT};

const SECOND: Duration = Duration::from_secs(1);
const AT_ONCE: Since = Since::Known(Duration::ZERO);

fn feed() -> Feed {
    let channel: ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
    channel.into()
}

fn success(now: Instant) -> Success<Arc<Channel>> {
    let id = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
    let upload = |id: &str, kind, thumbnail| Upload {
        id: id.parse().expect("an ID"),
        kind,
        title: format!("Title of {id}"),
        published: Some(SystemTime::UNIX_EPOCH + SECOND * 1_700_000_000),
        updated: None,
        thumbnail,
        views: Some(7),
    };
    let odd = Thumbnail {
        url: "https://elsewhere.example/still.jpg".into(),
        width: 3,
        height: 2,
    };
    let uploads = vec![
        upload("0123456789A", Kind::Video, Some(odd)),
        upload("0123456789B", Kind::Short, None),
    ];
    Success {
        value: Arc::new(Channel::new(id, "A channel", uploads)),
        at: ago(now, SECOND * 10),
        time: SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000,
        unlisted_since: Some(ago(now, SECOND * 20)),
    }
}

fn ago(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).expect("the machine runs since")
}

fn failed(error: UpstreamError, now: Instant) -> Failure<UpstreamError> {
    Failure {
        out_of_budget: false,
        error,
        at: ago(now, SECOND * 2),
        retry_at: now + SECOND * 30,
        streak: 3,
    }
}

#[test]
fn what_is_kept_comes_back_older_by_what_has_passed() {
    let now = Instant::now();
    for error in [
        UpstreamError::NotFound,
        UpstreamError::Outage,
        UpstreamError::Status(503),
        UpstreamError::Unreachable("reset".into()),
        UpstreamError::TimedOut(SECOND * 10),
        UpstreamError::Malformed("not XML".into()),
        UpstreamError::SuspectSnapshot,
    ] {
        let known = CacheEntry::failed(Some(success(now)), failed(error.clone(), now));
        let bytes = encode(&known, now).expect("something to keep");
        let later = now + SECOND * 5;
        let back = decode(&bytes, feed(), Since::Known(SECOND * 5), later).expect("readable");
        let (was, is) = (
            known.success.expect("a success"),
            back.success.expect("a success"),
        );
        assert_eq!((is.value, is.at, is.time), (was.value, was.at, was.time));
        assert_eq!(is.unlisted_since, was.unlisted_since);
        let is = back.failure.expect("a failure");
        assert_eq!((is.error, is.streak), (error, 3));
        assert_eq!((is.at, is.retry_at), (ago(now, SECOND * 2), now + SECOND * 30));
    }
}

#[test]
fn whether_the_feed_was_full_is_kept_and_15_uploads_say_so_themselves() {
    let now = Instant::now();
    for entries in [2, MAX_UPLOADS] {
        let channel = success(now).value.as_ref().clone().with_entries(entries);
        let known = CacheEntry::succeeded(Arc::new(channel), now, SystemTime::now());
        let bytes = encode(&known, now).expect("something to keep");
        let back = decode(&bytes, feed(), Since::Known(Duration::ZERO), now).expect("readable");
        assert_eq!(
            back.success.expect("a success").value.is_full(),
            entries == MAX_UPLOADS
        );
    }
    let uploads = (10..25).map(|number| store::Upload {
        video_id: format!("01234567{number}A"),
        ..store::Upload::default()
    });
    // As a version wrote it that did not know the field.
    let before = store::Channel {
        channel_id: success(now).value.id().to_string(),
        uploads: uploads.collect(),
        ..store::Channel::default()
    };
    assert!(known_channel(before, feed()).expect("readable").is_full());
}

#[test]
fn the_first_byte_tells_whether_there_is_a_good_answer() {
    let now = Instant::now();
    let unavailable = || failed(UpstreamError::Status(503), now);
    for (known, has) in [
        (CacheEntry::failed(None, unavailable()), false),
        (CacheEntry::failed(Some(success(now)), unavailable()), true),
        (
            CacheEntry::failed(Some(success(now)), failed(UpstreamError::Busy, now)),
            true,
        ),
    ] {
        assert_eq!(has_answer(&encode(&known, now).expect("something to keep")), has);
    }
    assert!(!has_answer(b""));
}

#[test]
fn a_pause_that_is_over_is_over() {
    let now = Instant::now();
    let known = CacheEntry::failed(None, failed(UpstreamError::NotFound, now));
    let bytes = encode(&known, now).expect("something to keep");
    let later = now + SECOND * 50;
    let back = decode(&bytes, feed(), Since::Known(SECOND * 50), later).expect("readable");
    assert!(back.failure.expect("a failure").retry_at <= later);
}

#[test]
fn what_was_kept_nobody_knows_how_long_is_at_least_so_old_and_its_pause_is_over() {
    let now = Instant::now();
    let known = CacheEntry::failed(Some(success(now)), failed(UpstreamError::Status(503), now));
    let bytes = encode(&known, now).expect("something to keep");
    for (at_least, ages) in [(SECOND * 60, [60, 60]), (SECOND * 5, [10, 5]), (SECOND, [10, 2])] {
        let later = now + SECOND * 1000;
        let back = decode(&bytes, feed(), Since::Unknown { at_least }, later).expect("readable");
        let (success, failure) = (back.success.expect("a success"), back.failure.expect("a failure"));
        assert_eq!(
            [success.age(later), later - failure.at],
            ages.map(|age| SECOND * age),
            "{at_least:?}"
        );
        assert_eq!((failure.retry_at, failure.streak), (later, 3));
    }
}

#[test]
fn what_the_upstream_thinks_of_us_is_nothing_for_others() {
    let now = Instant::now();
    let refused = || failed(UpstreamError::RateLimited(429), now);
    assert_eq!(encode(&CacheEntry::failed(None, refused()), now), None);
    let bytes = encode(&CacheEntry::failed(Some(success(now)), refused()), now).expect("something to keep");
    let back = decode(&bytes, feed(), AT_ONCE, now).expect("readable");
    assert!(back.success.is_some() && back.failure.is_none());
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let now = Instant::now();
    let encoded = |error| {
        let failure = store::Failure {
            out_of_budget: false,
            error,
            age: duration(SECOND),
            retry_in: duration(SECOND),
            streak: 1,
        };
        let success = success(now);
        let kept = store::Kept {
            channel: Some(channel(&success.value)),
            fetch_time: Some(success.time.into()),
            age: duration(SECOND),
            failure: Some(failure),
            unlisted_for: None,
        };
        // A field with the number 100, of one byte.
        [&kept.encode_to_vec()[..], b"\xa2\x06\x01x"].concat()
    };
    let back = decode(&encoded(Some(Error::Status(503))), feed(), AT_ONCE, now).expect("readable");
    assert_eq!(back.success.expect("a success").unlisted_since, None);
    assert!(back.failure.is_some());
    let back = decode(&encoded(None), feed(), AT_ONCE, now).expect("readable");
    assert!(back.success.is_some() && back.failure.is_none());
}

#[test]
fn an_answer_may_be_older_than_the_machine_runs() {
    let now = Instant::now();
    let bytes = encode(
        &CacheEntry::succeeded(success(now).value, now, SystemTime::now()),
        now,
    );
    let years = Duration::from_hours(10 * 365 * 24);
    let back = decode(
        &bytes.expect("something to keep"),
        feed(),
        Since::Known(years),
        now,
    )
    .expect("readable");
    assert_eq!(back.success.expect("a success").age(now), years);
}

#[test]
fn bytes_that_are_nothing_are_refused() {
    let now = Instant::now();
    for bytes in [&b""[..], b"\xff\xff", b"\x0a\x02\x0a\x00"] {
        decode(bytes, feed(), AT_ONCE, now).expect_err("nothing");
    }
    let bytes = encode(
        &CacheEntry::failed(Some(success(now)), failed(UpstreamError::NotFound, now)),
        now,
    );
    let bytes = bytes.expect("something to keep");
    for length in 0..bytes.len() {
        // Not a panic, whatever it is.
        let _ = decode(&bytes[..length], feed(), AT_ONCE, now);
    }
}

/// An entry that is fine, for tests to spoil.
fn entry() -> store::Kept {
    let now = Instant::now();
    let known = CacheEntry::failed(Some(success(now)), failed(UpstreamError::Status(503), now));
    store::Kept::decode(&encode(&known, now).expect("something to keep")[..]).expect("ours")
}

/// What is read of an entry that somebody has spoiled.
fn spoiled(
    spoil: impl FnOnce(&mut store::Kept, &mut store::Channel, &mut store::Failure),
) -> Result<FeedEntry, DecodeError> {
    let mut kept = entry();
    let (mut channel, mut failure) = (
        kept.channel.take().expect("a success"),
        kept.failure.take().expect("a failure"),
    );
    spoil(&mut kept, &mut channel, &mut failure);
    kept.channel.get_or_insert(channel);
    kept.failure.get_or_insert(failure);
    decode(&kept.encode_to_vec(), feed(), AT_ONCE, Instant::now())
}

fn field(result: Result<FeedEntry, DecodeError>) -> &'static str {
    match result {
        Err(DecodeError::Field(field)) => field,
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[test]
fn what_is_kept_under_another_s_key_is_not_taken_for_it() {
    let other = "UC0123456789abcdefghijkA";
    assert_eq!(
        field(spoiled(|_, channel, _| channel.channel_id = other.into())),
        "channel_id"
    );
    let shorts = Feed {
        kind: Some(Kind::Short),
        ..feed()
    };
    let bytes = entry().encode_to_vec();
    assert_eq!(field(decode(&bytes, shorts, AT_ONCE, Instant::now())), "short");
}

#[test]
fn texts_and_uploads_are_those_that_a_feed_could_have_brought() {
    let known = spoiled(|_, channel, _| {
        channel.title = "€".repeat(1000);
        channel.uploads[0].title = "x".repeat(1100);
        channel.uploads[0].thumbnail_url = "javascript:alert(1)".into();
        let first = channel.uploads[0].clone();
        let more = (10..40).map(|number| store::Upload {
            video_id: format!("01234567{number}A"),
            thumbnail_url: "https://e.example/\r\n".into(),
            ..first.clone()
        });
        channel.uploads.extend(more);
    });
    let channel = known.expect("readable").success.expect("a success").value;
    assert_eq!(channel.title(), "€".repeat(MAX_TEXT / 3));
    assert_eq!(channel.len(), MAX_UPLOADS);
    assert!(
        channel
            .uploads()
            .all(|video| video.title().len() <= MAX_TEXT && video.thumbnail().is_none())
    );
}

#[test]
fn times_are_within_range() {
    // In the year 9999, which a timestamp can say.
    let late = Some(prost_types::Timestamp {
        seconds: 253_370_764_800,
        nanos: 0,
    });
    let known = spoiled(|_, channel, _| channel.uploads[0].publish_time = late).expect("readable");
    assert!(
        known
            .success
            .expect("a success")
            .value
            .uploads()
            .any(|video| video.published().is_none())
    );
    assert_eq!(field(spoiled(|kept, _, _| kept.fetch_time = late)), "fetch_time");
    for (seconds, nanos) in [
        (i64::MIN, 0),
        (i64::MAX, 0),
        (0, -1),
        (0, i32::MAX),
        (0, i32::MIN),
    ] {
        let odd = Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(field(spoiled(|kept, _, _| kept.fetch_time = odd)), "fetch_time");
        let odd = Some(prost_types::Duration { seconds, nanos });
        assert_eq!(field(spoiled(|kept, _, _| kept.age = odd)), "age");
    }
    let before = prost_types::Timestamp {
        seconds: -1,
        nanos: 500_000_000,
    };
    assert_eq!(time(Some(before)), SystemTime::UNIX_EPOCH.checked_sub(SECOND / 2));
    for age in [-1, 4_000_000_000, i64::MAX, i64::MIN] {
        assert_eq!(field(spoiled(|kept, _, _| kept.age = Some(seconds(age)))), "age");
        assert_eq!(
            field(spoiled(|_, _, failure| failure.age = Some(seconds(age)))),
            "failure.age"
        );
    }
}

#[test]
fn a_failure_keeps_nobody_from_a_lookup_for_longer_than_one_of_ours() {
    let pause = |retry_in| {
        let known = spoiled(|_, _, failure| {
            failure.retry_in = Some(seconds(retry_in));
            failure.streak = u32::MAX;
        });
        let failure = known.expect("readable").failure.expect("a failure");
        failure.retry_at.saturating_duration_since(Instant::now())
    };
    assert!(pause(i64::MAX) <= MAX_FAILURE_LIFETIME);
    assert!(pause(20) > SECOND * 10);
    assert_eq!(
        field(spoiled(|_, _, failure| failure.retry_in = Some(seconds(-1)))),
        "failure.retry_in"
    );
}

#[test]
fn what_a_failure_says_is_one_short_line() {
    for error in [Error::Unreachable, Error::Malformed] {
        let long = "a\nb".repeat(10_000);
        let known = spoiled(|_, _, failure| failure.error = Some(error(long))).expect("readable");
        let said = known.failure.expect("a failure").error.to_string();
        assert!(said.len() < MAX_TEXT + 100 && !said.contains('\n'), "{said}");
    }
    for status in [0, 99, 1000, u32::MAX] {
        let result = spoiled(|_, _, failure| failure.error = Some(Error::Status(status)));
        assert_eq!(field(result), "failure.status");
    }
    let result = spoiled(|_, _, failure| failure.error = Some(Error::TimedOut(seconds(i64::MAX))));
    assert_eq!(field(result), "failure.timed_out");
}

#[test]
fn the_longest_entry_of_ours_is_readable_and_a_longer_one_is_not_read() {
    let upload = |number: usize| Upload {
        id: format!("01234567{number}A").parse().expect("an ID"),
        kind: Kind::Video,
        title: "t".repeat(10_000),
        published: Some(SystemTime::now()),
        updated: Some(SystemTime::now()),
        thumbnail: Some(Thumbnail {
            url: format!("https://{}", "u".repeat(2040)),
            width: u32::MAX,
            height: u32::MAX,
        }),
        views: Some(u64::MAX),
    };
    let now = Instant::now();
    let channel = Channel::new(
        feed().channel,
        &"t".repeat(10_000),
        (10..25).map(upload).collect(),
    );
    let success = Success {
        value: Arc::new(channel),
        ..success(now)
    };
    let error = UpstreamError::Malformed(video::message(&"m".repeat(10_000)));
    let known = CacheEntry::failed(Some(success), failed(error, now));
    let bytes = encode(&known, now).expect("something to keep");
    assert!(bytes.len() < MAX_BYTES);
    let back = decode(&bytes, feed(), AT_ONCE, now).expect("readable");
    assert_eq!(
        back.success.expect("a success").value,
        known.success.expect("a success").value
    );
    // Whatever it is.
    let longer = [&bytes[..], &vec![0; MAX_BYTES]].concat();
    assert!(matches!(
        decode(&longer, feed(), AT_ONCE, now),
        Err(DecodeError::TooLong(_))
    ));
}
