//! Fuzz target of this module: see [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how it finds something")]

use std::time::{Duration, Instant};

use super::{FeedEntry, MAX_BYTES, MAX_FAILURE_LIFETIME, Since, decode, encode, has_answer};
use crate::{
    upstream::{Feed, UpstreamError, fuzzing::feed},
    video::{Channel, MAX_TEXT, MAX_UPLOADS, Picture, steers},
};

/// What a store has of a feed. The first byte says which feed; the second how long ago it was saved, 255 that nobody knows.
pub fn stored_entry(bytes: &[u8]) {
    let Some(([number, age], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let (feed, now) = (feed(*number), Instant::now());
    let since = match age {
        255 => Since::Unknown {
            at_least: Duration::from_hours(1),
        },
        // To 34 years.
        age => Since::Known(Duration::from_secs(1 << (age % 31))),
    };
    let Ok(entry) = decode(bytes, feed, since, now) else {
        return;
    };
    check_entry(&entry, feed, now);
    let saved = encode(&entry, now).expect("whatever is read may be saved");
    assert!(saved.len() <= MAX_BYTES, "{} bytes", saved.len());
    assert_eq!(has_answer(&saved), entry.success.is_some());
    let again = decode(&saved, feed, Since::Known(Duration::ZERO), now).expect("what was saved");
    check_entry(&again, feed, now);
    assert_eq!(
        encode(&again, now),
        Some(saved),
        "it changes from replica to replica"
    );
}

/// Nothing in an entry is beyond what plaque itself would put there.
pub(crate) fn check_entry(entry: &FeedEntry, feed: Feed, now: Instant) {
    assert!(entry.success.is_some() || entry.failure.is_some());
    if let Some(success) = &entry.success {
        assert!(success.at <= now, "from the future");
        assert!(success.unlisted_since <= Some(now), "from the future");
        check_channel(&success.value, feed);
    }
    if let Some(failure) = &entry.failure {
        assert!(failure.at <= now, "from the future");
        assert!(
            failure.retry_at <= now + MAX_FAILURE_LIFETIME,
            "a pause that nobody waits for"
        );
        let text = failure.error.to_string();
        assert!(!text.contains(steers), "{text:?} is not one line");
        assert!(text.len() <= 2 * MAX_TEXT);
        match failure.error {
            UpstreamError::RateLimited(_) | UpstreamError::Busy | UpstreamError::Panicked => {
                panic!("{text}: not a failure of the channel")
            }
            _ => {}
        }
    }
}

fn check_channel(channel: &Channel, feed: Feed) {
    assert_eq!(channel.id(), feed.channel);
    assert!(channel.len() <= MAX_UPLOADS && channel.title().len() <= MAX_TEXT);
    assert!(channel.weight() < MAX_BYTES);
    for upload in channel.uploads() {
        assert!(upload.title().len() <= MAX_TEXT);
        assert!(feed.kind.is_none_or(|kind| kind == upload.kind()));
        if let Some(Picture { url, .. }) = upload.picture() {
            let url = url.concat();
            assert!(url.starts_with("https://") && !url.contains(steers), "{url:?}");
        }
    }
    let dates = channel.uploads().map(|upload| upload.moment());
    assert!(dates.is_sorted_by(|before, after| before >= after));
}
