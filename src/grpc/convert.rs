//! Converts between protobuf messages and plaque's own types.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;

use super::{RequestError, status};
use crate::{
    latest::{
        Answer, Event, InvalidPageToken, InvalidResumeToken, Listed, PageToken, Query, ResumeToken,
        WatchEvent, WatchQuery,
    },
    proto::v1::{self, lookup_result::Outcome, watch_latest_video_response::Event as Message},
    video::{Channel, ChannelId, Kind, Moment, Source, Thumbnail, Video},
};

/// The most channels of one request.
pub(crate) const MAX_CHANNELS: usize = 100;

/// The uploads of a page of a request that does not say how many it wants.
const DEFAULT_PAGE: usize = 15;

/// The most uploads of a page.
const MAX_PAGE: usize = 50;

/// The valid range of a `google.protobuf.Timestamp`, in seconds since 1970.
const YEARS_1_TO_9999: Range<i64> = -62_135_596_800..253_402_300_800;

pub(super) fn query(request: &v1::GetLatestVideoRequest) -> Result<Query, RequestError> {
    channel_query(&request.channel_id, request.kind, request.max_age)
}

fn channel_query(
    channel_id: &str,
    number: i32,
    age: Option<prost_types::Duration>,
) -> Result<Query, RequestError> {
    Ok(Query {
        channel: channel_id.parse()?,
        kind: kind(number)?,
        max_age: age.map(max_age).transpose()?,
    })
}

/// What a request for a page of uploads asks for: the query, the size of the page, and where it begins.
pub(super) fn list(
    request: &v1::ListUploadsRequest,
) -> Result<(Query, usize, Option<PageToken>), RequestError> {
    let query = channel_query(&request.channel_id, request.kind, request.max_age)?;
    let size = usize::try_from(request.page_size).map_err(|_| RequestError::InvalidPageSize)?;
    let size = if size == 0 {
        DEFAULT_PAGE
    } else {
        size.min(MAX_PAGE)
    };
    let token = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
    let token = token.map(PageToken::decode).transpose();
    let token = token.map_err(|InvalidPageToken| RequestError::InvalidPageToken)?;
    if token.as_ref().is_some_and(|token| !token.is_of(&query)) {
        return Err(RequestError::InvalidPageToken);
    }
    Ok((query, size, token))
}

/// A page of uploads.
pub(super) fn listed(listed: &Listed) -> v1::ListUploadsResponse {
    let videos = listed.channels.iter().flat_map(|(channel, indices)| {
        let uploads = indices.iter().filter_map(|index| channel.upload(*index));
        uploads.map(|upload| video(channel, upload))
    });
    let mut videos: Vec<_> = videos.collect();
    if !listed.has_kinds {
        for video in &mut videos {
            video.kind = v1::VideoKind::Unspecified.into();
        }
    }
    v1::ListUploadsResponse {
        videos,
        freshness: listed.answer.as_ref().map(freshness),
        next_page_token: listed.next.as_ref().map(PageToken::encode).unwrap_or_default(),
    }
}

pub(super) fn freshness(answer: &Answer) -> v1::Freshness {
    v1::Freshness {
        fetch_time: Some(answer.fetched.into()),
        stale: answer.stale,
        source: source(answer.channel().source()).into(),
    }
}

/// The query for each channel of a batch, or why its ID is invalid.
pub(super) fn queries(
    request: &v1::BatchGetLatestVideosRequest,
) -> Result<Vec<Result<Query, RequestError>>, RequestError> {
    count(&request.channel_ids)?;
    let kind = kind(request.kind)?;
    let max_age = request.max_age.map(max_age).transpose()?;
    let query = |id: &String| {
        Ok(Query {
            channel: id.parse()?,
            kind,
            max_age,
        })
    };
    Ok(request.channel_ids.iter().map(query).collect())
}

pub(super) fn watch(request: &v1::WatchLatestVideoRequest) -> Result<WatchQuery, RequestError> {
    count(&request.channel_ids)?;
    let channels = request.channel_ids.iter().map(|id| id.parse());
    let channels: Vec<ChannelId> = channels.collect::<Result<_, _>>()?;
    let published_after = request.published_after.map(published_after).transpose()?;
    let resume_token = |bytes: &Vec<u8>| {
        let token = ResumeToken::decode(bytes).map_err(|InvalidResumeToken| {
            RequestError::InvalidResumeToken("what is not a token of this service")
        })?;
        let is_requested = channels.iter().any(|channel| token.is_of(*channel));
        is_requested
            .then_some(token)
            .ok_or(RequestError::InvalidResumeToken(
                "one of a channel that channel_ids does not have",
            ))
    };
    Ok(WatchQuery {
        kind: kind(request.kind)?,
        published_after,
        resume_tokens: request
            .resume_tokens
            .iter()
            .map(resume_token)
            .collect::<Result<_, _>>()?,
        channels,
    })
}

fn count(channels: &[String]) -> Result<(), RequestError> {
    match channels.len() {
        0 => Err(RequestError::NoChannels(MAX_CHANNELS)),
        1..=MAX_CHANNELS => Ok(()),
        given => Err(RequestError::TooManyChannels {
            given,
            limit: MAX_CHANNELS,
        }),
    }
}

/// Parses a kind: its name or number as in protobuf JSON, or in any case the name without `VIDEO_KIND_`, or `any` as in the command line.
/// `openapi.rs` describes these.
pub(super) fn kind_named(text: &str) -> Result<i32, RequestError> {
    let named = |name: &str| v1::VideoKind::from_str_name(name).map(i32::from);
    let short = || match text.to_ascii_uppercase().as_str() {
        "ANY" => Some(v1::VideoKind::Unspecified.into()),
        name => named(&format!("VIDEO_KIND_{name}")),
    };
    let number = || text.parse().ok();
    let kind = named(text).or_else(short).or_else(number);
    kind.ok_or_else(|| RequestError::InvalidKind(text.into()))
}

fn kind(number: i32) -> Result<Option<Kind>, RequestError> {
    match v1::VideoKind::try_from(number) {
        Ok(v1::VideoKind::Unspecified) => Ok(None),
        Ok(v1::VideoKind::Video) => Ok(Some(Kind::Video)),
        Ok(v1::VideoKind::Short) => Ok(Some(Kind::Short)),
        Err(_) => Err(RequestError::InvalidKind(number.to_string().into())),
    }
}

fn max_age(duration: prost_types::Duration) -> Result<Duration, RequestError> {
    // Not prost's own conversion, which normalizes what `google.protobuf.Duration` forbids: mixed signs, a billion nanos.
    let seconds = u64::try_from(duration.seconds).map_err(|_| RequestError::InvalidMaxAge)?;
    match u32::try_from(duration.nanos) {
        Ok(nanos @ 0..1_000_000_000) => Ok(Duration::new(seconds, nanos)),
        _ => Err(RequestError::InvalidMaxAge),
    }
}

fn published_after(time: prost_types::Timestamp) -> Result<SystemTime, RequestError> {
    // Not prost's own conversion alone, which normalizes what `google.protobuf.Timestamp` forbids.
    let is_valid = YEARS_1_TO_9999.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    let time = is_valid.then(|| SystemTime::try_from(time).ok()).flatten();
    time.ok_or(RequestError::InvalidPublishedAfter)
}

pub(super) fn event(watched: &WatchEvent) -> v1::WatchLatestVideoResponse {
    let channel_id = watched.channel.to_string();
    let mut initial = false;
    let event = match &watched.event {
        Event::Upload {
            channel,
            upload,
            initial: is_initial,
        } => {
            initial = *is_initial;
            channel
                .upload(*upload)
                .map(|upload| Message::Video(video(channel, upload)))
        }
        Event::Problem { error, retry_after } => {
            let failure = status::lookup_failure(&error.clone().into(), Some(*retry_after));
            Some(Message::Problem(v1::LookupResult {
                channel_id,
                outcome: Some(Outcome::Failure(failure)),
            }))
        }
        Event::Recovered => Some(Message::Recovered(v1::Recovered { channel_id })),
        Event::Missed => Some(Message::Missed(v1::Missed { channel_id })),
    };
    v1::WatchLatestVideoResponse {
        event,
        initial,
        resume_token: watched.resume_token.encode(),
    }
}

pub(super) fn video(channel: &Channel, video: Video<'_>) -> v1::Video {
    v1::Video {
        video_id: video.id().to_string(),
        channel_id: channel.id().to_string(),
        channel_title: channel.title().to_owned(),
        title: video.title().to_owned(),
        url: video.url().concat(),
        kind: video_kind(video.kind()).into(),
        publish_time: video.published().map(Into::into),
        update_time: video.updated().map(Into::into),
        thumbnail: video.thumbnail().map(thumbnail),
        view_count: video.views(),
    }
}

/// Converts a time; [`Moment::NONE`] becomes `None`.
pub(super) fn timestamp(moment: Moment) -> Option<Timestamp> {
    const SECOND: i64 = 1_000_000_000;
    let nanos = moment.to_nanos();
    moment.is_some().then(|| Timestamp {
        seconds: nanos.div_euclid(SECOND),
        nanos: i32::try_from(nanos.rem_euclid(SECOND)).unwrap_or_default(),
    })
}

/// Where an answer comes from, as in the API.
pub(super) fn source(source: Source) -> v1::Source {
    match source {
        Source::Feed => v1::Source::Feed,
        Source::Mirror => v1::Source::Mirror,
        Source::DataApi => v1::Source::DataApi,
    }
}

pub(super) fn video_kind(kind: Kind) -> v1::VideoKind {
    match kind {
        Kind::Video => v1::VideoKind::Video,
        Kind::Short => v1::VideoKind::Short,
    }
}

fn thumbnail(thumbnail: Thumbnail) -> v1::Thumbnail {
    let Thumbnail { url, width, height } = thumbnail;
    v1::Thumbnail { url, width, height }
}

#[cfg(test)]
mod tests;
