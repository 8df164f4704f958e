//! Fuzz targets of this module: see [`crate::fuzzing`].

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    LookupError, ResumeToken,
    cursor::{Cursor, Step},
    resume,
    timeline::{Health, Problem, Timeline},
};
use crate::{
    cache_entry::CacheEntry,
    upstream::{
        UpstreamError,
        fuzzing::{CHANNEL, feed},
    },
    video::{Channel, Kind, MAX_UPLOADS, Moment, Upload},
};

/// The longest token.
const MAX_TOKEN: usize = 128;

/// Enough for every upload to appear and vanish, and few enough for many watches per second.
const MAX_LOOKUPS: u64 = 32;

/// An hour of the channel is so many seconds.
const HOUR: u64 = 3600;

/// A resume token. Or, after a zero byte: the kind to watch, the length of a token, the token without its checksum, and a series of
/// snapshots of the channel.
pub fn resume_token(bytes: &[u8]) {
    let Some((0, bytes)) = bytes.split_first().map(|(first, bytes)| (*first, bytes)) else {
        if let Ok(token) = ResumeToken::decode(bytes) {
            check_token(&token);
        }
        return;
    };
    let Some(([kind, length], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let kind = feed(*kind).kind;
    let (token, lookups) = bytes.split_at(usize::from(*length).min(bytes.len()));
    let token = [token, &resume::checksum(token)].concat();
    let Ok(token) = ResumeToken::decode(&token) else {
        return;
    };
    check_token(&token);
    watch(&token, kind, lookups);
}

/// Checks that a token round-trips, except that dates may be later, but not later than the newest.
fn check_token(token: &ResumeToken) {
    let bytes = token.encode();
    assert!(bytes.len() <= MAX_TOKEN, "{} bytes", bytes.len());
    let again = ResumeToken::decode(&bytes).expect("what was encoded");
    let without_dates = |token: &ResumeToken| {
        let mut token = token.clone();
        for entry in &mut token.entries {
            entry.published = Moment::NONE;
        }
        token
    };
    assert_eq!(without_dates(&again), without_dates(token));
    let newest = token.entries.iter().map(|entry| entry.published).max();
    for (before, after) in token.entries.iter().zip(&again.entries) {
        assert_eq!(before.published.is_some(), after.published.is_some());
        assert!(before.published <= after.published && Some(after.published) <= newest);
    }
}

/// Checks that a watch that is resumed with any token sends a bounded number of events after each lookup, sends nothing twice, and
/// returns tokens that can be resumed from.
fn watch(token: &ResumeToken, kind: Option<Kind>, lookups: &[u8]) {
    let (mut timeline, mut cursor) = (Timeline::default(), Cursor::resume(token));
    let (began, mut sent) = (Instant::now(), HashSet::new());
    // A lookup is a byte with the number of uploads and two bytes for each; or a byte that makes it fail.
    let mut bytes = lookups.iter().copied();
    for lookup in 1..=MAX_LOOKUPS {
        let Some(count) = bytes.next() else { break };
        let now = began + Duration::from_secs(lookup);
        let health = match count {
            200.. => Health::Fails(Problem {
                error: LookupError::Upstream(UpstreamError::Status(count.into())),
                retry_at: now,
            }),
            _ => Health::Works,
        };
        let uploads = std::iter::from_fn(|| Some(upload(bytes.next()?, bytes.next()?)));
        let uploads: Vec<_> = uploads.take(usize::from(count) % (MAX_UPLOADS + 1)).collect();
        let channel = Channel::new(CHANNEL.parse().expect("an ID"), "", uploads);
        timeline.apply(
            &CacheEntry::succeeded(Arc::new(channel), now, SystemTime::UNIX_EPOCH),
            health,
        );

        let wall = Moment::new(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(500 * HOUR)));
        let mut events = 0;
        while let Some(step) = cursor.next(&timeline, kind, wall) {
            events += 1;
            assert!(events <= MAX_UPLOADS + 3, "it does not end");
            if let Step::Upload { index, .. } = step {
                let channel = timeline.channel().expect("it has been looked up");
                let upload = channel.upload(index).expect("it is shown");
                assert!(kind.is_none_or(|kind| kind == upload.kind()));
                assert!(sent.insert(upload.id()), "{} is sent twice", upload.id());
            }
        }
        let token = cursor.token(&timeline, CHANNEL.as_bytes());
        check_token(&token);
        assert!(token.is_of(CHANNEL.parse().expect("an ID")));
        let mut resumed = Cursor::resume(&token);
        let mut events = 0;
        while resumed.next(&timeline, kind, wall).is_some() {
            events += 1;
            assert!(events <= MAX_UPLOADS + 3, "it does not end");
        }
    }
}

/// One of 60 uploads, which is fewer than a timeline remembers.
fn upload(number: u8, hour: u8) -> Upload {
    let number = number % 120;
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs((400 + u64::from(hour)) * HOUR);
    Upload {
        id: format!("{:010}A", number / 2).parse().expect("an ID"),
        kind: if number.is_multiple_of(2) {
            Kind::Video
        } else {
            Kind::Short
        },
        title: String::new(),
        published: (hour != 255).then_some(date),
        updated: None,
        thumbnail: None,
        views: None,
    }
}
