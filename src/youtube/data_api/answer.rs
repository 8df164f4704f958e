//! From the bytes of the Data API's answers to uploads, channels and errors. Pure.
//!
//! Read field by field instead of into types: what is missing or odd in one item leaves that one out, and not the whole answer.

#[cfg(test)]
pub(super) mod tests;

use std::{cmp::Reverse, time::SystemTime};

use chrono::DateTime;
use serde_json::Value;

use super::{ApiError, budget::Refusal};
use crate::{
    channel_name::ResolvedChannel,
    upstream::UpstreamError,
    video::{self, ChannelId, Kind, Thumbnail, Upload, VideoId},
};

/// What is asked for of a playlist's items: a quarter of what would come otherwise.
pub(super) const PLAYLIST_FIELDS: &str = "nextPageToken,items(snippet(publishedAt,title,channelTitle,videoOwnerChannelId,thumbnails/high),contentDetails(videoId,videoPublishedAt))";

/// What is asked for of channels.
pub(super) const CHANNEL_FIELDS: &str = "items(id,snippet/title)";

/// What is asked for of a video.
pub(super) const VIDEO_FIELDS: &str = "items/snippet(channelId,channelTitle)";

/// A page of a list of uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsPage {
    /// The channel's name; empty if the page is.
    pub title: String,
    /// Newest first. Those of a list of one kind are of that kind; the others are [`Kind::Video`], since the list of all does not say it.
    pub uploads: Vec<Upload>,
    /// How many items the page has, with those that are no uploads of the channel (any more).
    pub items: usize,
    /// Names the page of older ones; none if this is the last.
    pub next_page: Option<String>,
}

/// Reads the answer of `playlistItems`, of a list of the uploads of `channel`: of one kind, or of all.
pub(super) fn uploads(json: &[u8], channel: ChannelId, kind: Option<Kind>) -> Result<UploadsPage, ApiError> {
    let answer = parse(json)?;
    let items = items(&answer);
    let mut uploads: Vec<Upload> = items
        .iter()
        .filter_map(|item| upload(item, channel, kind))
        .collect();
    // The order is that in which they were added, mostly: a premiere, or what was private for long, is elsewhere.
    uploads.sort_by_key(|upload| Reverse(upload.published));
    Ok(UploadsPage {
        title: text(&answer["items"][0]["snippet"]["channelTitle"]),
        uploads,
        items: items.len(),
        next_page: answer["nextPageToken"].as_str().map(str::to_owned),
    })
}

fn upload(item: &Value, channel: ChannelId, kind: Option<Kind>) -> Option<Upload> {
    let (snippet, details) = (&item["snippet"], &item["contentDetails"]);
    let owner = snippet["videoOwnerChannelId"].as_str();
    if owner.is_some_and(|owner| owner != channel.as_str()) {
        tracing::debug!(%channel, owner, "left out an upload of another channel");
        return None;
    }
    // Which video, and when it was published; without the details, when it was added to the list.
    let (video, published) = if details.is_null() {
        (&snippet["resourceId"]["videoId"], &snippet["publishedAt"])
    } else {
        // Without a date, it is private or deleted.
        details.get("videoPublishedAt")?;
        (&details["videoId"], &details["videoPublishedAt"])
    };
    // The picture that feeds have, of 480 × 360 pixels.
    let picture = &snippet["thumbnails"]["high"];
    let pixels = |side| picture[side].as_u64().and_then(|pixels| pixels.try_into().ok());
    Some(Upload {
        id: video.as_str()?.parse::<VideoId>().ok()?,
        kind: kind.unwrap_or(Kind::Video),
        title: text(&snippet["title"]),
        published: published.as_str().and_then(time),
        updated: None,
        thumbnail: picture["url"].as_str().map(|url| Thumbnail {
            url: url.to_owned(),
            width: pixels("width").unwrap_or(0),
            height: pixels("height").unwrap_or(0),
        }),
        views: None,
    })
}

/// Reads the answer of `channels`.
pub(super) fn channels(json: &[u8]) -> Result<Vec<ResolvedChannel>, ApiError> {
    let answer = parse(json)?;
    let found = items(&answer).iter();
    Ok(found
        .filter_map(|item| resolved(&item["id"], &item["snippet"]["title"]))
        .collect())
}

/// Reads the answer of `videos`: who uploaded the first.
pub(super) fn uploader(json: &[u8]) -> Result<Option<ResolvedChannel>, ApiError> {
    let answer = parse(json)?;
    let video = &answer["items"][0]["snippet"];
    Ok(resolved(&video["channelId"], &video["channelTitle"]))
}

fn resolved(id: &Value, title: &Value) -> Option<ResolvedChannel> {
    Some(ResolvedChannel {
        id: id.as_str()?.parse().ok()?,
        title: video::message(title.as_str().unwrap_or_default()),
    })
}

/// What an answer says that has another status than 200.
pub(super) fn error(status: u16, json: &[u8]) -> ApiError {
    // What is no JSON comes from something between.
    let answer: Value = serde_json::from_slice(json).unwrap_or_default();
    // Newer errors have google.rpc's details as well, which then say more.
    let lists = [&answer["error"]["errors"], &answer["error"]["details"]];
    let reasons = lists.into_iter().filter_map(Value::as_array).flatten();
    for reason in reasons.filter_map(|reason| reason["reason"].as_str()) {
        return match reason {
            "playlistNotFound" => ApiError::PlaylistNotFound,
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

fn parse(json: &[u8]) -> Result<Value, ApiError> {
    match serde_json::from_slice(json) {
        Ok(answer @ Value::Object(_)) => Ok(answer),
        Ok(_) => Err(UpstreamError::Malformed("it is no JSON object".into()).into()),
        Err(error) => Err(UpstreamError::Malformed(video::message(&error.to_string())).into()),
    }
}

/// None where nothing was found.
fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn time(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}
