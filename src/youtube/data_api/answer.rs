//! Parses answers of the Data API: uploads, channels and errors. Pure.
//!
//! Fields are read one by one and not into types, so that an item with a missing or malformed field is left out, and the others are kept.

#[cfg(test)]
pub(super) mod tests;

use std::{cmp::Reverse, time::SystemTime};

use chrono::DateTime;
use serde_json::Value;

use super::{ApiError, budget::Refusal};
use crate::{
    upstream::{Page, UpstreamError},
    video::{self, ChannelId, Kind, ResolvedChannel, Thumbnail, Upload, VideoId},
};

/// The fields of a playlist's items that are requested: a quarter of what the answer has otherwise.
pub(super) const PLAYLIST_FIELDS: &str = "kind,nextPageToken,pageInfo/totalResults,items(snippet(publishedAt,title,channelTitle,videoOwnerChannelId,thumbnails/high),contentDetails(videoId,videoPublishedAt))";

/// The fields of channels that are requested.
pub(super) const CHANNEL_FIELDS: &str = "kind,items(id,snippet/title)";

/// The fields of a video that are requested.
pub(super) const VIDEO_FIELDS: &str = "kind,items/snippet(channelId,channelTitle)";

/// Parses an answer of `playlistItems`: a page of the uploads of `channel`, all of this `kind` if there is one. Otherwise they get
/// [`Kind::Video`], since the list of all uploads does not say their kinds.
pub(super) fn uploads(
    json: &[u8],
    channel: ChannelId,
    kind: Option<Kind>,
    now: SystemTime,
) -> Result<Page, ApiError> {
    let answer = parse(json, "youtube#playlistItemListResponse")?;
    let items = items(&answer);
    let mut uploads: Vec<Upload> = items
        .iter()
        .filter(|item| !is_gone(item))
        .filter_map(|item| upload(item, channel, kind, now))
        .collect();
    if uploads.is_empty() && !items.iter().all(is_gone) {
        return Err(
            UpstreamError::Malformed("it has no upload of the channel that can be read".into()).into(),
        );
    }
    // The list has the order in which uploads were added to it. A premiere, or a video that was private, was published later.
    uploads.sort_by_key(|upload| Reverse(upload.published));
    Ok(Page {
        title: text(&answer["items"][0]["snippet"]["channelTitle"]),
        uploads,
        total: answer["pageInfo"]["totalResults"].as_u64(),
        entries: items.len(),
        next: answer["nextPageToken"].as_str().map(str::to_owned),
    })
}

/// Whether it is a private or deleted video, which has no date.
fn is_gone(item: &Value) -> bool {
    let details = &item["contentDetails"];
    details.is_object() && details.get("videoPublishedAt").is_none()
}

/// The upload, if it is the channel's and has a date that can be.
fn upload(item: &Value, channel: ChannelId, kind: Option<Kind>, now: SystemTime) -> Option<Upload> {
    let (snippet, details) = (&item["snippet"], &item["contentDetails"]);
    let owner = snippet["videoOwnerChannelId"].as_str();
    if owner.is_some_and(|owner| owner != channel.as_str()) {
        tracing::debug!(%channel, owner, "left out an upload of another channel");
        return None;
    }
    // Without the details, the date of publication is unknown: the date at which it was added to the list has to do.
    let (video, published) = if details.is_null() {
        (&snippet["resourceId"]["videoId"], &snippet["publishedAt"])
    } else {
        (&details["videoId"], &details["videoPublishedAt"])
    };
    let published = time(published.as_str()?).filter(|published| !video::is_ahead(*published, now))?;
    // The same picture as in feeds, of 480 × 360 pixels.
    let picture = &snippet["thumbnails"]["high"];
    let pixels = |side| picture[side].as_u64().and_then(|pixels| pixels.try_into().ok());
    Some(Upload {
        id: video.as_str()?.parse::<VideoId>().ok()?,
        kind: kind.unwrap_or(Kind::Video),
        title: text(&snippet["title"]),
        published: Some(published),
        updated: None,
        thumbnail: picture["url"].as_str().map(|url| Thumbnail {
            url: url.to_owned(),
            width: pixels("width").unwrap_or(0),
            height: pixels("height").unwrap_or(0),
        }),
        views: None,
    })
}

/// Parses an answer of `channels`.
pub(super) fn channels(json: &[u8]) -> Result<Vec<ResolvedChannel>, ApiError> {
    let answer = parse(json, "youtube#channelListResponse")?;
    found(&answer, |item| resolved(&item["id"], &item["snippet"]["title"]))
}

/// Parses an answer of `videos`: the uploader of the first one.
pub(super) fn uploader(json: &[u8]) -> Result<Option<ResolvedChannel>, ApiError> {
    let answer = parse(json, "youtube#videoListResponse")?;
    let uploader = |item: &Value| resolved(&item["snippet"]["channelId"], &item["snippet"]["channelTitle"]);
    Ok(found(&answer, uploader)?.into_iter().next())
}

fn resolved(id: &Value, title: &Value) -> Option<ResolvedChannel> {
    Some(ResolvedChannel {
        id: id.as_str()?.parse().ok()?,
        title: video::message(title.as_str().unwrap_or_default()),
    })
}

/// The error of an answer whose status is not 200.
pub(super) fn error(status: u16, json: &[u8]) -> ApiError {
    // A proxy may answer with something that is not JSON.
    let answer: Value = serde_json::from_slice(json).unwrap_or_default();
    // Newer errors also have details of google.rpc, which are more specific.
    let lists = [&answer["error"]["errors"], &answer["error"]["details"]];
    let reasons = lists.into_iter().filter_map(Value::as_array).flatten();
    let reasons = reasons.filter_map(|reason| reason["reason"].as_str());
    if status == 404 && reasons.clone().all(|reason| reason == "notFound") {
        return Refusal::NoApi.into();
    }
    for reason in reasons {
        return match reason {
            "playlistNotFound" => ApiError::PlaylistNotFound,
            "invalidPageToken" => ApiError::PageNotFound,
            "quotaExceeded" | "dailyLimitExceeded" => Refusal::QuotaExceeded.into(),
            "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" => {
                Refusal::RateLimited.into()
            }
            "keyInvalid" | "keyExpired" | "API_KEY_INVALID" => Refusal::KeyInvalid.into(),
            "accessNotConfigured"
            | "ipRefererBlocked"
            | "SERVICE_DISABLED"
            | "API_KEY_SERVICE_BLOCKED"
            | "API_KEY_IP_ADDRESS_BLOCKED"
            | "API_KEY_HTTP_REFERRER_BLOCKED" => Refusal::NotConfigured.into(),
            other => {
                tracing::debug!(status, reason = other, "an error of the YouTube Data API");
                continue;
            }
        };
    }
    UpstreamError::Status(status).into()
}

/// Parses a list of this kind. Only such an answer can say that something does not exist.
fn parse(json: &[u8], kind: &str) -> Result<Value, ApiError> {
    match serde_json::from_slice::<Value>(json) {
        Ok(answer) if answer["kind"] == kind => Ok(answer),
        Ok(_) => Err(UpstreamError::Malformed("it is not the list that was requested".into()).into()),
        Err(error) => Err(UpstreamError::Malformed(video::message(&error.to_string())).into()),
    }
}

/// Those of the items that can be read. If none of them can, that does not mean that nothing was found.
fn found(
    answer: &Value,
    read: impl Fn(&Value) -> Option<ResolvedChannel>,
) -> Result<Vec<ResolvedChannel>, ApiError> {
    let items = items(answer);
    let found: Vec<ResolvedChannel> = items.iter().filter_map(read).collect();
    if found.is_empty() && !items.is_empty() {
        return Err(UpstreamError::Malformed("none of its items can be read".into()).into());
    }
    Ok(found)
}

/// An answer has no items if nothing was found.
fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn time(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}
