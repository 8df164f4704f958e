use super::*;

const SECOND: Duration = Duration::from_secs(1);
const AT_ONCE: Since = Since::Known(Duration::ZERO);

fn good(now: Instant) -> Good<Arc<Channel>> {
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
    Good {
        value: Arc::new(Channel::new(id, "A channel", uploads)),
        at: ago(now, SECOND * 10),
        time: SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000,
    }
}

fn ago(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).expect("the machine runs since")
}

fn failed(error: UpstreamError, now: Instant) -> Failed<UpstreamError> {
    Failed {
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
        let known = Entry::failed(Some(good(now)), failed(error.clone(), now));
        let bytes = encode(&known, now).expect("something to keep");
        let later = now + SECOND * 5;
        let back = decode(&bytes, Since::Known(SECOND * 5), later).expect("readable");
        let (was, is) = (known.good.expect("good"), back.good.expect("good"));
        assert_eq!((is.value, is.at, is.time), (was.value, was.at, was.time));
        let is = back.failed.expect("failed");
        assert_eq!((is.error, is.streak), (error, 3));
        assert_eq!((is.at, is.retry_at), (ago(now, SECOND * 2), now + SECOND * 30));
    }
}

#[test]
fn whether_the_feed_was_full_is_kept_and_15_uploads_say_so_themselves() {
    let now = Instant::now();
    for entries in [2, MAX_UPLOADS] {
        let channel = good(now).value.as_ref().clone().with_entries(entries);
        let known = Entry::succeeded(Arc::new(channel), now, SystemTime::now());
        let bytes = encode(&known, now).expect("something to keep");
        let back = decode(&bytes, Since::Known(Duration::ZERO), now).expect("readable");
        assert_eq!(back.good.expect("good").value.is_full(), entries == MAX_UPLOADS);
    }
    let uploads = (10..25).map(|number| store::Upload {
        video_id: format!("01234567{number}A"),
        ..store::Upload::default()
    });
    // As a version wrote it that did not know the field.
    let before = store::Channel {
        channel_id: good(now).value.id().to_string(),
        uploads: uploads.collect(),
        ..store::Channel::default()
    };
    assert!(known_channel(before).expect("readable").is_full());
}

#[test]
fn the_first_byte_tells_whether_there_is_a_good_answer() {
    let now = Instant::now();
    let unavailable = || failed(UpstreamError::Status(503), now);
    for (known, has) in [
        (Entry::failed(None, unavailable()), false),
        (Entry::failed(Some(good(now)), unavailable()), true),
        (
            Entry::failed(Some(good(now)), failed(UpstreamError::Busy, now)),
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
    let known = Entry::failed(None, failed(UpstreamError::NotFound, now));
    let bytes = encode(&known, now).expect("something to keep");
    let later = now + SECOND * 50;
    let back = decode(&bytes, Since::Known(SECOND * 50), later).expect("readable");
    assert!(back.failed.expect("failed").retry_at <= later);
}

#[test]
fn what_was_kept_nobody_knows_how_long_is_at_least_so_old_and_its_pause_is_over() {
    let now = Instant::now();
    let known = Entry::failed(Some(good(now)), failed(UpstreamError::Status(503), now));
    let bytes = encode(&known, now).expect("something to keep");
    for (at_least, ages) in [(SECOND * 60, [60, 60]), (SECOND * 5, [10, 5]), (SECOND, [10, 2])] {
        let later = now + SECOND * 1000;
        let back = decode(&bytes, Since::Unknown { at_least }, later).expect("readable");
        let (good, failed) = (back.good.expect("good"), back.failed.expect("failed"));
        assert_eq!(
            [good.age(later), later - failed.at],
            ages.map(|age| SECOND * age),
            "{at_least:?}"
        );
        assert_eq!((failed.retry_at, failed.streak), (later, 3));
    }
}

#[test]
fn what_the_upstream_thinks_of_us_is_nothing_for_others() {
    let now = Instant::now();
    let refused = || failed(UpstreamError::RateLimited(429), now);
    assert_eq!(encode(&Entry::failed(None, refused()), now), None);
    let bytes = encode(&Entry::failed(Some(good(now)), refused()), now).expect("something to keep");
    let back = decode(&bytes, AT_ONCE, now).expect("readable");
    assert!(back.good.is_some() && back.failed.is_none());
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let now = Instant::now();
    let encoded = |error| {
        let failure = store::Failure {
            error,
            age: duration(SECOND),
            retry_in: duration(SECOND),
            streak: 1,
        };
        let good = good(now);
        let kept = store::Kept {
            channel: Some(channel(&good.value)),
            fetch_time: Some(good.time.into()),
            age: duration(SECOND),
            failure: Some(failure),
        };
        // A field with the number 100, of one byte.
        [&kept.encode_to_vec()[..], b"\xa2\x06\x01x"].concat()
    };
    let back = decode(&encoded(Some(Error::Status(503))), AT_ONCE, now).expect("readable");
    assert!(back.good.is_some() && back.failed.is_some());
    let back = decode(&encoded(None), AT_ONCE, now).expect("readable");
    assert!(back.good.is_some() && back.failed.is_none());
}

#[test]
fn an_answer_may_be_older_than_the_machine_runs() {
    let now = Instant::now();
    let bytes = encode(&Entry::succeeded(good(now).value, now, SystemTime::now()), now);
    let years = Duration::from_hours(10 * 365 * 24);
    let back = decode(&bytes.expect("something to keep"), Since::Known(years), now).expect("readable");
    assert_eq!(back.good.expect("good").age(now), years);
}

#[test]
fn bytes_that_are_nothing_are_refused() {
    let now = Instant::now();
    for bytes in [&b""[..], b"\xff\xff", b"\x0a\x02\x0a\x00"] {
        decode(bytes, AT_ONCE, now).expect_err("nothing");
    }
    let bytes = encode(
        &Entry::failed(Some(good(now)), failed(UpstreamError::NotFound, now)),
        now,
    );
    let bytes = bytes.expect("something to keep");
    for length in 0..bytes.len() {
        // Not a panic, whatever it is.
        let _ = decode(&bytes[..length], AT_ONCE, now);
    }
}
