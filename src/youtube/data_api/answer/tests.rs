use std::time::Duration;

use super::*;

pub(in crate::youtube::data_api) const ID: &str = "UC_x5XG1OV2P6uZZ5FSM9Ttw";

/// The bytes of a fixture.
macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name, ".json")).as_slice()
    };
}

fn channel() -> ChannelId {
    ID.parse().expect("an ID")
}

/// Later than all dates of the fixtures.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn read(json: &[u8], kind: Option<Kind>) -> Page {
    uploads(json, channel(), kind, now()).expect("an answer")
}

fn seconds(upload: &Upload) -> u64 {
    let published = upload.published.expect("a date");
    published
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

#[test]
fn uploads_are_sorted_by_when_they_were_published() {
    let page = read(fixture!("playlist_items"), None);
    assert_eq!((page.title.as_str(), page.entries), ("A channel for tests", 6));
    assert_eq!(page.next.as_deref(), Some("EAAaBlBUOkNBVQ"));
    let ids: Vec<&str> = page.uploads.iter().map(|upload| upload.id.as_str()).collect();
    assert_eq!(
        ids,
        ["bbbbbbbbbbb", "eeeeeeeeeee", "aaaaaaaaaaa"],
        "without the private one, the collaboration, and what has no video ID"
    );
    let first = &page.uploads[0];
    assert_eq!(first.title, "Added before & published last → ü");
    assert_eq!(seconds(first), 1_689_966_015);
    assert_eq!(
        first.thumbnail,
        Some(Thumbnail {
            url: "https://i.ytimg.com/vi/bbbbbbbbbbb/hqdefault.jpg".into(),
            width: 480,
            height: 360
        })
    );
    assert_eq!(
        (first.views, first.updated, first.kind),
        (None, None, Kind::Video)
    );
}

#[test]
fn uploads_that_are_all_of_another_channel_are_no_answer() {
    let json = String::from_utf8_lossy(fixture!("playlist_items")).replace(ID, "UCzzzzzzzzzzzzzzzzzzzzzA");
    let error = uploads(json.as_bytes(), channel(), None, now()).expect_err("no answer");
    assert!(
        matches!(error, ApiError::Upstream(UpstreamError::Malformed(_))),
        "{error}"
    );
    // What is private or deleted has no owner.
    let gone = br#"{"kind":"youtube#playlistItemListResponse","items":[{"snippet":{},"contentDetails":{"videoId":"aaaaaaaaaaa"}}]}"#;
    assert_eq!(read(gone, None).uploads, []);
}

#[test]
fn uploads_without_a_date_that_can_be_are_left_out_or_are_no_answer() {
    let item = |video, date| {
        let details = serde_json::json!({"videoId": video, "videoPublishedAt": date});
        serde_json::json!({"snippet": {"videoOwnerChannelId": ID}, "contentDetails": details})
    };
    let list = |items: &[Value]| {
        let list = serde_json::json!({"kind": "youtube#playlistItemListResponse", "items": items});
        uploads(list.to_string().as_bytes(), channel(), None, now())
    };
    // Two hours ahead of 2033-05-18T03:33:20Z, and half an hour.
    let odd = ["", "yesterday", "2033-05-18T05:33:20Z"].map(|date| item("aaaaaaaaaaa", date));
    let good = item("bbbbbbbbbbb", "2033-05-18T04:03:20Z");
    for odd in odd {
        assert!(list(std::slice::from_ref(&odd)).is_err(), "{odd}");
        let found = list(&[odd, good.clone()]).expect("an answer").uploads;
        let ids: Vec<&str> = found.iter().map(|upload| upload.id.as_str()).collect();
        assert_eq!(ids, ["bbbbbbbbbbb"]);
    }
}

#[test]
fn a_list_of_a_kind_has_uploads_of_that_kind() {
    let page = read(fixture!("playlist_items"), Some(Kind::Short));
    assert!(page.uploads.iter().all(|upload| upload.kind == Kind::Short) && !page.uploads.is_empty());
}

#[test]
fn without_details_the_date_is_when_it_was_added() {
    let page = read(fixture!("playlist_items_snippet"), None);
    assert_eq!(page.next, None);
    assert_eq!(page.uploads[0].id.as_str(), "fffffffffff");
    assert_eq!(seconds(&page.uploads[0]), 1_574_469_905);
}

#[test]
fn channels_and_uploaders_are_read() {
    let found = channels(fixture!("channels")).expect("an answer");
    let expected = ResolvedChannel {
        id: channel(),
        title: "A channel for tests".into(),
    };
    assert_eq!(found, std::slice::from_ref(&expected));
    assert_eq!(channels(fixture!("no_channels")), Ok(vec![]));
    assert_eq!(uploader(fixture!("videos")), Ok(Some(expected)));
    let no_videos = br#"{"kind":"youtube#videoListResponse"}"#;
    assert_eq!(uploader(no_videos), Ok(None));
}

#[test]
fn an_odd_item_does_not_spoil_the_others() {
    let json = br#"{"kind":"youtube#channelListResponse",
        "items":[7,{"id":"nobody"},{},{"id":"UC_x5XG1OV2P6uZZ5FSM9Ttw","snippet":{"title":"a\nb"}}]}"#;
    let found = channels(json).expect("an answer");
    assert_eq!(found.len(), 1);
    assert_eq!(&*found[0].title, "a\u{fffd}b");
}

#[test]
fn an_error_is_told_by_its_reason() {
    for (json, expected) in [
        (fixture!("playlist_not_found"), ApiError::PlaylistNotFound),
        (fixture!("quota_exceeded"), Refusal::QuotaExceeded.into()),
        (fixture!("key_invalid"), Refusal::KeyInvalid.into()),
        (fixture!("key_invalid_details"), Refusal::KeyInvalid.into()),
        (fixture!("access_not_configured"), Refusal::NotConfigured.into()),
        (fixture!("rate_limit_exceeded"), Refusal::RateLimited.into()),
        (fixture!("backend_error"), UpstreamError::Status(403).into()),
        (
            br#"{"error":{"code":400,"errors":[{"reason":"invalidPageToken","location":"pageToken"}]}}"#,
            ApiError::PageNotFound,
        ),
        (b"<html>", UpstreamError::Status(403).into()),
        (b"", UpstreamError::Status(403).into()),
    ] {
        assert_eq!(error(403, json), expected, "{}", String::from_utf8_lossy(json));
    }
    for (json, expected) in [
        (&b"<html>"[..], Refusal::NoApi.into()),
        (
            br#"{"error":{"errors":[{"reason":"notFound"}]}}"#,
            Refusal::NoApi.into(),
        ),
        (
            br#"{"error":{"errors":[{"reason":"channelNotFound"}]}}"#,
            UpstreamError::Status(404).into(),
        ),
        (fixture!("playlist_not_found"), ApiError::PlaylistNotFound),
    ] {
        assert_eq!(error(404, json), expected, "{}", String::from_utf8_lossy(json));
    }
}

#[test]
fn what_is_no_answer_is_malformed() {
    for json in [
        &b""[..],
        b"[]",
        b"null",
        b"<html>",
        br#"{"items":["#,
        &"[".repeat(10_000).into_bytes(),
        b"{}",
        br#"{"items":[]}"#,
        br#"{"error":{"code":403,"errors":[{"reason":"quotaExceeded"}]}}"#,
        fixture!("key_invalid"),
        br#"{"kind":"youtube#searchListResponse","items":[]}"#,
    ] {
        let of_uploads = uploads(json, channel(), None, now()).map(|_| ());
        let answers = [of_uploads, channels(json).map(|_| ()), uploader(json).map(|_| ())];
        assert!(answers.iter().all(is_malformed), "{answers:?}");
    }
    let unread = channels(br#"{"kind":"youtube#channelListResponse","items":["a",{"id":1}]}"#);
    assert!(is_malformed(&unread.map(|_| ())), "it may be the channel");
    let unread = uploader(br#"{"kind":"youtube#videoListResponse","items":[{}]}"#);
    assert!(is_malformed(&unread.map(|_| ())));
}

fn is_malformed(answer: &Result<(), ApiError>) -> bool {
    matches!(answer, Err(ApiError::Upstream(UpstreamError::Malformed(_))))
}

#[test]
fn a_date_that_cannot_be_is_none() {
    assert_eq!(time("2023-02-30T00:00:00Z"), None);
    assert_eq!(time("yesterday"), None);
    let times = ["1970-01-01T00:00:01Z", "1970-01-01T01:00:01+01:00"];
    let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    assert_eq!(times.map(time), [Some(expected); 2]);
}
