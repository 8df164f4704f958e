//! Between protobuf messages and plaque's own types.

use std::time::Duration;

use crate::{
    latest::{Answer, LookupError, Query},
    proto::v1,
    video::{Kind, Thumbnail},
};

pub(super) fn query(request: &v1::GetLatestVideoRequest) -> Result<Query, LookupError> {
    Ok(Query {
        channel: request.channel_id.parse()?,
        kind: kind(request.kind)?,
        max_age: request.max_age.map(max_age).transpose()?,
    })
}

fn kind(number: i32) -> Result<Option<Kind>, LookupError> {
    match v1::VideoKind::try_from(number) {
        Ok(v1::VideoKind::Unspecified) => Ok(None),
        Ok(v1::VideoKind::Video) => Ok(Some(Kind::Video)),
        Ok(v1::VideoKind::Short) => Ok(Some(Kind::Short)),
        Err(_) => Err(LookupError::InvalidKind(number)),
    }
}

fn max_age(duration: prost_types::Duration) -> Result<Duration, LookupError> {
    // Not prost's own conversion, which normalises what `google.protobuf.Duration` forbids: mixed signs, a billion nanos.
    let seconds = u64::try_from(duration.seconds).map_err(|_| LookupError::InvalidMaxAge)?;
    match u32::try_from(duration.nanos) {
        Ok(nanos @ 0..1_000_000_000) => Ok(Duration::new(seconds, nanos)),
        _ => Err(LookupError::InvalidMaxAge),
    }
}

pub(super) fn response(answer: &Answer) -> v1::GetLatestVideoResponse {
    v1::GetLatestVideoResponse {
        video: Some(video(answer)),
        freshness: Some(v1::Freshness {
            fetch_time: Some(answer.fetched.into()),
            stale: answer.stale,
        }),
    }
}

fn video(answer: &Answer) -> v1::Video {
    let (channel, video) = (answer.channel(), answer.video());
    let kind = match video.kind {
        Kind::Video => v1::VideoKind::Video,
        Kind::Short => v1::VideoKind::Short,
    };
    v1::Video {
        video_id: video.id.to_string(),
        channel_id: channel.id.to_string(),
        channel_title: channel.title.to_string(),
        title: video.title.to_string(),
        url: video.url(),
        kind: kind.into(),
        publish_time: video.published.map(Into::into),
        update_time: video.updated.map(Into::into),
        thumbnail: video.thumbnail.as_ref().map(thumbnail),
        view_count: video.views,
    }
}

fn thumbnail(thumbnail: &Thumbnail) -> v1::Thumbnail {
    v1::Thumbnail {
        url: thumbnail.url.to_string(),
        width: thumbnail.width,
        height: thumbnail.height,
    }
}
