//! Fuzz targets of this module: see [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use std::time::Duration;

use axum::extract::Query;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::{
    CallError, PUSHBACK, convert,
    deadline::{self, InvalidTimeout, refuse_at_once},
    json,
};
use crate::upstream::fuzzing::CHANNEL;

/// A `grpc-timeout`.
pub fn grpc_timeout(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let headers = HeaderMap::from_iter([(deadline::TIMEOUT, value)]);
    let timeout = deadline::timeout(&headers);
    assert_eq!(timeout, allowed(bytes).map(Some));

    let pause = Duration::from_millis(bytes.iter().map(|byte| u64::from(*byte)).sum());
    let response = refuse_at_once(CallError::TooManyCalls(1), pause, &headers);
    let pushback = response
        .headers()
        .get(PUSHBACK)
        .and_then(|text| text.to_str().ok());
    let milliseconds = pause.as_millis().to_string();
    let expected = match timeout {
        _ if pause.is_zero() => None,
        Ok(Some(timeout)) if pause >= timeout => Some("-1"),
        _ => Some(milliseconds.as_str()),
    };
    assert_eq!(pushback, expected);
}

/// The time of a `grpc-timeout`, implemented a second time from the specification.
fn allowed(text: &[u8]) -> Result<Duration, InvalidTimeout> {
    let text = str::from_utf8(text).map_err(|_| InvalidTimeout)?;
    let units = [
        ('H', Duration::from_hours(1)),
        ('M', Duration::from_mins(1)),
        ('S', Duration::from_secs(1)),
        ('m', Duration::from_millis(1)),
        ('u', Duration::from_micros(1)),
        ('n', Duration::from_nanos(1)),
    ];
    let of_unit = |(letter, unit)| Some((text.strip_suffix(letter)?, unit));
    let (digits, unit) = units.into_iter().find_map(of_unit).ok_or(InvalidTimeout)?;
    if !(1..=8).contains(&digits.len()) || digits.contains(|c: char| !c.is_ascii_digit()) {
        return Err(InvalidTimeout);
    }
    let amount: u32 = digits.parse().map_err(|_| InvalidTimeout)?;
    Ok(unit * amount)
}

/// The query of `/v1/channels/{channel_id}/latest-video`.
pub fn json_query(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let uri = format!("/v1/channels/{CHANNEL}/latest-video?{text}").parse::<Uri>();
    let Some(Query(parameters)) = uri.ok().and_then(|uri| Query::try_from_uri(&uri).ok()) else {
        return;
    };
    let request = json::request(CHANNEL.into(), parameters);
    match request.and_then(|request| Ok((convert::query(&request)?, request))) {
        Ok((query, request)) => {
            assert_eq!(query.channel.as_str(), CHANNEL);
            let again = request.max_age.map(|max_age| max_age.to_string());
            let again = again.map(|text| ("maxAge".into(), text)).into_iter();
            let kind = ("kind".into(), request.kind.to_string());
            let again = json::request(CHANNEL.into(), again.chain([kind]).collect());
            assert_eq!(again.ok(), Some(request), "it says something else in other words");
        }
        Err(error) => {
            let response = json::error_response(&error.into(), None);
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
            let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
            assert_eq!(body["code"], 3, "INVALID_ARGUMENT");
            // The message quotes the input, and is repeated for the invalid field.
            assert!(response.body().len() < 2000 + 20 * text.len());
        }
    }
}
