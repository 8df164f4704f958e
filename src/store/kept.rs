//! What is known of a feed, as bytes and back.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prost::Message as _;

use super::Known;
use crate::{
    coalesce::{Entry, Failed, Good},
    proto::store::{self, failure::Error},
    upstream::UpstreamError,
    video::{Channel, Kind, MAX_UPLOADS, Thumbnail, Upload},
};

/// Bytes that are nothing that was kept.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are no such message.
    #[error("it is no plaque.store.v1.Kept: {0}")]
    Encoding(#[from] prost::DecodeError),
    /// A field has a value that it cannot have.
    #[error("its {0} cannot be")]
    Field(&'static str),
}

/// How long ago bytes were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This long ago.
    Known(Duration),
    /// Unknown: the clock was wrong then, or is wrong now. An age counts as `at_least`, unless it was greater when they were written.
    Unknown {
        /// See [`Policy::unknown_age`](crate::latest::Policy::unknown_age).
        at_least: Duration,
    },
}

impl Since {
    /// The current age of what had this `age` when it was written.
    fn older(self, age: Duration) -> Duration {
        match self {
            Self::Known(since) => age.saturating_add(since),
            Self::Unknown { at_least } => age.max(at_least),
        }
    }

    /// What is left of a `pause`: nothing, if that is unknown.
    fn left(self, pause: Duration) -> Duration {
        match self {
            Self::Known(since) => pause.saturating_sub(since),
            Self::Unknown { .. } => Duration::ZERO,
        }
    }
}

/// What is `known` at `now`, as bytes. `None` if that is nothing for others: that the upstream refuses *us*, for example, or a bug.
#[must_use]
pub fn encode(known: &Known, now: Instant) -> Option<Vec<u8>> {
    let failure = known
        .failed
        .as_ref()
        .filter(|failed| error(&failed.error).is_some());
    if known.good.is_none() && failure.is_none() {
        return None;
    }
    let kept = store::Kept {
        channel: known.good.as_ref().map(|good| channel(&good.value)),
        fetch_time: known.good.as_ref().map(|good| good.time.into()),
        age: known.good.as_ref().and_then(|good| duration(good.age(now))),
        failure: failure.map(|failed| store::Failure {
            error: error(&failed.error),
            age: duration(now.saturating_duration_since(failed.at)),
            retry_in: duration(failed.retry_at.saturating_duration_since(now)),
            streak: failed.streak,
        }),
    };
    Some(kept.encode_to_vec())
}

/// What was known when `bytes` were written, `since` then, as of `now`. Without a failure of a kind that only a later version knows: what
/// was good before it still is.
///
/// # Errors
///
/// If they are not what [`encode`] makes, and say nothing else either.
pub fn decode(bytes: &[u8], since: Since, now: Instant) -> Result<Known, Unreadable> {
    let kept = store::Kept::decode(bytes)?;
    let ago = |age: Option<prost_types::Duration>, what| {
        let age = age
            .and_then(|age| age.try_into().ok())
            .ok_or(Unreadable::Field(what))?;
        now.checked_sub(since.older(age)).ok_or(Unreadable::Field(what))
    };
    let good = kept.channel.map(|channel| -> Result<_, Unreadable> {
        Ok(Good {
            value: Arc::new(known_channel(channel)?),
            at: ago(kept.age, "age")?,
            time: time(kept.fetch_time).ok_or(Unreadable::Field("fetch_time"))?,
        })
    });
    let failure = kept
        .failure
        .and_then(|failure| Some((failure.error.clone()?, failure)));
    let failed = failure.map(|(error, failure)| -> Result<_, Unreadable> {
        let at = ago(failure.age, "failure.age")?;
        let pause: Option<Duration> = failure.retry_in.and_then(|pause| pause.try_into().ok());
        let pause = since.left(pause.ok_or(Unreadable::Field("failure.retry_in"))?);
        Ok(Failed {
            error: known_error(error)?,
            at,
            retry_at: now
                .checked_add(pause)
                .ok_or(Unreadable::Field("failure.retry_in"))?,
            streak: failure.streak,
        })
    });
    let (good, failed) = (good.transpose()?, failed.transpose()?);
    match failed {
        None => good
            .map(|good| Entry::succeeded(good.value, good.at, good.time))
            .ok_or(Unreadable::Field("channel")),
        Some(failed) => Ok(Entry::failed(good, failed)),
    }
}

fn channel(channel: &Channel) -> store::Channel {
    store::Channel {
        channel_id: channel.id().to_string(),
        title: channel.title().into(),
        full: channel.is_full(),
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

fn known_channel(channel: store::Channel) -> Result<Channel, Unreadable> {
    let uploads = channel.uploads.into_iter().map(|upload| {
        Ok(Upload {
            id: upload
                .video_id
                .parse()
                .map_err(|_| Unreadable::Field("video_id"))?,
            kind: if upload.short { Kind::Short } else { Kind::Video },
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
    let id = channel
        .channel_id
        .parse()
        .map_err(|_| Unreadable::Field("channel_id"))?;
    let uploads = uploads.collect::<Result<_, Unreadable>>()?;
    let entries = if channel.full { MAX_UPLOADS } else { 0 };
    Ok(Channel::new(id, &channel.title, uploads).with_entries(entries))
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
        UpstreamError::RateLimited(_) | UpstreamError::Busy | UpstreamError::Panicked => return None,
    })
}

fn known_error(error: Error) -> Result<UpstreamError, Unreadable> {
    Ok(match error {
        Error::NotFound(_) => UpstreamError::NotFound,
        Error::Outage(_) => UpstreamError::Outage,
        Error::Status(status) => UpstreamError::Status(
            status
                .try_into()
                .map_err(|_| Unreadable::Field("failure.status"))?,
        ),
        Error::Unreachable(how) => UpstreamError::Unreachable(how.into()),
        Error::TimedOut(limit) => UpstreamError::TimedOut(
            limit
                .try_into()
                .map_err(|_| Unreadable::Field("failure.timed_out"))?,
        ),
        Error::Malformed(how) => UpstreamError::Malformed(how.into()),
        Error::SuspectSnapshot(_) => UpstreamError::SuspectSnapshot,
    })
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn time(time: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    time.and_then(|time| time.try_into().ok())
}

#[cfg(test)]
mod tests {
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
}
