//! Encodes cache entries as bytes (`proto/plaque/store/v1/kept.proto`), and decodes them.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prost::Message as _;

use super::{FeedEntry, lifetime::MAX_FAILURE_LIFETIME};
use crate::{
    cache_entry::{CacheEntry, Failure, HitCount, Success},
    proto::store::{self, failure::Error},
    upstream::{Feed, UpstreamError},
    video::{
        self, Channel, ChannelName, Kind, MAX_UPLOADS, Moment, ResolvedChannel, Source, Thumbnail, Upload,
    },
};

/// Upper bound of what [`encode`] returns: 15 uploads with the longest titles and addresses that a [`Channel`] can have take 48 KiB, a
/// failure 1 KiB.
pub const MAX_BYTES: usize = 64 << 10;

const NANOS: u32 = 1_000_000_000;

/// Upper bound of an age: YouTube is younger.
const LONGEST_AGE: Duration = Duration::from_hours(100 * 366 * 24);

/// Longer than any time limit that can be configured.
const LONGEST_LIMIT: Duration = Duration::from_hours(366 * 24);

/// Bytes that are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are not a message of this type.
    #[error("it is no plaque.store.v1.Kept: {0}")]
    Encoding(#[from] prost::DecodeError),
    /// They are longer than [`MAX_BYTES`].
    #[error("it has {0} bytes")]
    TooLong(usize),
    /// This field has an invalid value.
    #[error("its {0} cannot be")]
    Field(&'static str),
}

/// How long ago an entry was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This long ago.
    Known(Duration),
    /// Unknown: the clock was wrong then, or is wrong now. Ages become `at_least` this, or stay what they were when encoded if that is
    /// more.
    Unknown {
        /// See [`Policy::unknown_age`](crate::latest::Policy::unknown_age).
        at_least: Duration,
    },
}

impl Since {
    /// The current age of something that had this `age` when encoded.
    fn older(self, age: Duration) -> Duration {
        match self {
            Self::Known(since) => age.saturating_add(since),
            Self::Unknown { at_least } => age.max(at_least),
        }
    }

    /// What remains of a `pause`; nothing if the time since is unknown.
    fn left(self, pause: Duration) -> Duration {
        match self {
            Self::Known(since) => pause.saturating_sub(since),
            Self::Unknown { .. } => Duration::ZERO,
        }
    }
}

/// Encodes the channel of a name, with the name: a store may look entries up by a hash of it.
#[must_use]
pub fn encode_name(name: &ChannelName, ResolvedChannel { id, title }: &ResolvedChannel) -> Vec<u8> {
    format!("{name} {id} {title}").into_bytes()
}

/// Decodes the channel of a name. `None` if the bytes are something else.
#[must_use]
pub fn decode_name(name: &ChannelName, bytes: &[u8]) -> Option<ResolvedChannel> {
    let text = str::from_utf8(bytes).ok()?;
    let (id, title) = text.strip_prefix(&format!("{name} "))?.split_once(' ')?;
    Some(ResolvedChannel {
        id: id.parse().ok()?,
        title: video::message(title),
    })
}

/// Encodes `entry` as of `now`. `None` if it is of no use to other replicas: for example that the upstream refuses this one, or a bug.
#[must_use]
pub fn encode(entry: &FeedEntry, now: Instant) -> Option<Vec<u8>> {
    let failure = entry
        .failure
        .as_ref()
        .filter(|failure| error(&failure.error).is_some());
    if entry.success.is_none() && failure.is_none() {
        return None;
    }
    let kept = store::Kept {
        channel: entry.success.as_ref().map(|success| channel(&success.value)),
        fetch_time: entry.success.as_ref().map(|success| success.time.into()),
        age: entry
            .success
            .as_ref()
            .and_then(|success| duration(success.age(now))),
        failure: failure.map(|failure| store::Failure {
            error: error(&failure.error),
            age: duration(now.saturating_duration_since(failure.at)),
            retry_in: duration(failure.retry_at.saturating_duration_since(now)),
            streak: failure.streak,
            out_of_budget: failure.out_of_budget,
        }),
        unlisted_for: entry
            .success
            .as_ref()
            .and_then(|success| duration(now.saturating_duration_since(success.unlisted_since?))),
    };
    Some(kept.encode_to_vec())
}

/// Whether encoded bytes have a success: its channel is field 1, and is written first. The Redis scripts use the same test.
#[must_use]
pub fn has_answer(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a)
}

/// Adds to `entry` the failure of an entry that was saved later without the success.
#[must_use]
pub fn with_later_failure(entry: FeedEntry, later: Option<FeedEntry>) -> FeedEntry {
    match later.and_then(|later| later.failure) {
        Some(failure) if Some(failure.at) >= entry.last_attempt() => {
            CacheEntry::failed(entry.success, failure)
        }
        _ => entry,
    }
}

/// Decodes the entry of `feed` that was encoded `since`, as of `now`. A failure of a kind that only a later version knows is dropped; the
/// success remains.
///
/// The bytes may have been forged by anybody who can write to the store. At worst they cause that `feed` is looked up, or is not looked up
/// for as long as after a failure of plaque's own.
///
/// # Errors
///
/// If the bytes are not an entry of that feed.
pub fn decode(bytes: &[u8], feed: Feed, since: Since, now: Instant) -> Result<FeedEntry, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let kept = store::Kept::decode(bytes)?;
    let ago = |age: Option<prost_types::Duration>, what| {
        let age = age.and_then(known_duration).ok_or(DecodeError::Field(what))?;
        let age = Some(since.older(age)).filter(|age| *age <= LONGEST_AGE);
        age.and_then(|age| now.checked_sub(age))
            .ok_or(DecodeError::Field(what))
    };
    let success = kept.channel.map(|channel| -> Result<_, DecodeError> {
        Ok(Success {
            value: Arc::new(known_channel(channel, feed)?),
            at: ago(kept.age, "age")?,
            time: time(kept.fetch_time).ok_or(DecodeError::Field("fetch_time"))?,
            unlisted_since: kept
                .unlisted_for
                .map(|age| ago(Some(age), "unlisted_for"))
                .transpose()?,
        })
    });
    let failure = kept
        .failure
        .and_then(|failure| Some((failure.error.clone()?, failure)));
    let failure = failure.map(|(error, failure)| -> Result<_, DecodeError> {
        let at = ago(failure.age, "failure.age")?;
        let pause: Option<Duration> = failure.retry_in.and_then(known_duration);
        let pause = pause.ok_or(DecodeError::Field("failure.retry_in"))?;
        let pause = since.left(pause.min(MAX_FAILURE_LIFETIME));
        Ok(Failure {
            error: known_error(error)?,
            at,
            retry_at: now
                .checked_add(pause)
                .ok_or(DecodeError::Field("failure.retry_in"))?,
            streak: failure.streak,
            out_of_budget: failure.out_of_budget,
        })
    });
    let (success, failure) = (success.transpose()?, failure.transpose()?);
    if success.is_none() && failure.is_none() {
        return Err(DecodeError::Field("channel"));
    }
    Ok(CacheEntry {
        success,
        failure,
        hits: HitCount::default(),
    })
}

fn channel(channel: &Channel) -> store::Channel {
    store::Channel {
        channel_id: channel.id().to_string(),
        title: channel.title().into(),
        full: channel.is_full(),
        source: match channel.source() {
            Source::Feed => store::channel::Source::FeedUnspecified,
            Source::Mirror => store::channel::Source::Mirror,
            Source::DataApi => store::channel::Source::DataApi,
        }
        .into(),
        uploads: channel
            .uploads()
            .map(|video| {
                let thumbnail = video.thumbnail();
                store::Upload {
                    video_id: video.id().to_string(),
                    title: video.title().into(),
                    short: video.kind() == Kind::Short,
                    publish_time: video.published().map(Into::into),
                    update_time: video.updated().map(Into::into),
                    thumbnail_width: thumbnail.as_ref().map_or(0, |thumbnail| thumbnail.width),
                    thumbnail_height: thumbnail.as_ref().map_or(0, |thumbnail| thumbnail.height),
                    thumbnail_url: thumbnail.map(|thumbnail| thumbnail.url).unwrap_or_default(),
                    view_count: video.views(),
                }
            })
            .collect(),
    }
}

fn known_channel(channel: store::Channel, feed: Feed) -> Result<Channel, DecodeError> {
    if channel.channel_id != feed.channel.as_str() {
        return Err(DecodeError::Field("channel_id"));
    }
    // One of a later version counts as the feed.
    let source = match channel.source() {
        store::channel::Source::FeedUnspecified => Source::Feed,
        store::channel::Source::Mirror => Source::Mirror,
        store::channel::Source::DataApi => Source::DataApi,
    };
    let uploads = channel.uploads.into_iter().map(|upload| {
        let kind = if upload.short { Kind::Short } else { Kind::Video };
        if feed.kind.is_some_and(|only| only != kind) {
            return Err(DecodeError::Field("short"));
        }
        Ok(Upload {
            id: upload
                .video_id
                .parse()
                .map_err(|_| DecodeError::Field("video_id"))?,
            kind,
            title: upload.title,
            published: time(upload.publish_time),
            updated: time(upload.update_time),
            thumbnail: (!upload.thumbnail_url.is_empty()).then_some(Thumbnail {
                url: upload.thumbnail_url,
                width: upload.thumbnail_width,
                height: upload.thumbnail_height,
            }),
            views: upload.view_count,
        })
    });
    let uploads = uploads.collect::<Result<_, DecodeError>>()?;
    let entries = if channel.full { MAX_UPLOADS } else { 0 };
    Ok(Channel::new(feed.channel, &channel.title, uploads)
        .with_entries(entries)
        .with_source(source))
}

fn error(error: &UpstreamError) -> Option<Error> {
    Some(match error {
        UpstreamError::NotFound => Error::NotFound(true),
        UpstreamError::Outage => Error::Outage(true),
        UpstreamError::Status(status) => Error::Status((*status).into()),
        UpstreamError::Unreachable(how) => Error::Unreachable(how.to_string()),
        UpstreamError::TimedOut(limit) => Error::TimedOut(duration(*limit)?),
        UpstreamError::Malformed(how) => Error::Malformed(how.to_string()),
        UpstreamError::SuspectSnapshot => Error::SuspectSnapshot(true),
        UpstreamError::NoSuchChannel => Error::NoSuchChannel(true),
        UpstreamError::RateLimited(_) | UpstreamError::Busy | UpstreamError::Panicked => return None,
    })
}

fn known_error(error: Error) -> Result<UpstreamError, DecodeError> {
    Ok(match error {
        Error::NotFound(_) => UpstreamError::NotFound,
        Error::Outage(_) => UpstreamError::Outage,
        // The range of HTTP.
        Error::Status(status) => match status.try_into() {
            Ok(status @ 100..=999) => UpstreamError::Status(status),
            _ => return Err(DecodeError::Field("failure.status")),
        },
        Error::Unreachable(how) => UpstreamError::Unreachable(video::message(&how)),
        Error::TimedOut(limit) => match known_duration(limit) {
            Some(limit) if limit <= LONGEST_LIMIT => UpstreamError::TimedOut(limit),
            _ => return Err(DecodeError::Field("failure.timed_out")),
        },
        Error::Malformed(how) => UpstreamError::Malformed(video::message(&how)),
        Error::SuspectSnapshot(_) => UpstreamError::SuspectSnapshot,
        Error::NoSuchChannel(_) => UpstreamError::NoSuchChannel,
    })
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

/// Not prost's conversion, which overflows on the least value.
fn known_duration(duration: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos).ok()?;
    (nanos < NANOS).then_some(Duration::new(duration.seconds.try_into().ok()?, nanos))
}

/// A time within the range of a [`Channel`].
fn time(time: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    let time = time?;
    let nanos = Some(i64::from(time.nanos)).filter(|nanos| (0..NANOS.into()).contains(nanos))?;
    let moment = time.seconds.checked_mul(NANOS.into())?.checked_add(nanos)?;
    Moment::from_nanos(moment).time()
}
