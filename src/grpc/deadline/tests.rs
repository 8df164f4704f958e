use super::*;

#[test]
fn a_batch_is_answered_a_little_before_its_deadline() {
    let milliseconds = Duration::from_millis;
    for (allowed, answered) in [(30_000, 29_950), (100, 50), (60, 30), (0, 0)] {
        assert_eq!(
            with_margin(milliseconds(allowed)),
            milliseconds(answered),
            "{allowed}"
        );
    }
    assert!(with_margin(Duration::MAX) < Duration::MAX);
}

#[test]
fn a_pushback_that_would_outlast_the_deadline_is_no_retry() {
    let pushback = |headers: &[(HeaderName, &'static str)], pause| {
        let headers = headers.iter().cloned();
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let response = refuse_at_once(CallError::TooManyCalls(1), pause, &headers.collect());
        response.headers().get(status::PUSHBACK).cloned()
    };
    let milliseconds = Duration::from_millis;
    assert_eq!(pushback(&[], milliseconds(90_000)).expect("a pushback"), "90000");
    let second = [(TIMEOUT, "1S")];
    assert_eq!(pushback(&second, milliseconds(999)).expect("a pushback"), "999");
    assert_eq!(pushback(&second, milliseconds(1000)).expect("a pushback"), "-1");
    assert_eq!(pushback(&second, Duration::ZERO), None);
    assert_eq!(
        pushback(&[(TIMEOUT, "soon")], milliseconds(1000)).expect("a pushback"),
        "1000"
    );
}

#[test]
fn a_timeout_is_digits_and_a_unit() {
    let parse = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header"));
        timeout(&headers)
    };
    assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    assert_eq!(parse("0n"), Ok(Some(Duration::ZERO)));
    assert_eq!(parse("40m"), Ok(Some(Duration::from_millis(40))));
    assert_eq!(parse("7u"), Ok(Some(Duration::from_micros(7))));
    assert_eq!(parse("2S"), Ok(Some(Duration::from_secs(2))));
    assert_eq!(parse("3M"), Ok(Some(Duration::from_mins(3))));
    assert_eq!(parse("99999999H"), Ok(Some(Duration::from_hours(99_999_999))));
    for bad in [
        "",
        "S",
        "10",
        "10s",
        "-1S",
        "+1S",
        "1.5S",
        "999999999S",
        "1 S",
        "S1",
    ] {
        assert_eq!(parse(bad), Err(InvalidTimeout), "{bad:?}");
    }
}
