//! See [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use std::time::SystemTime;

use super::{ApiError, answer};
use crate::{
    upstream::fuzzing::feed,
    video::{Channel, MAX_TEXT, MAX_UPLOADS, steers},
};

/// An answer of the Data API, after a byte that says of which feed.
pub fn data_api_answer(bytes: &[u8]) {
    let Some((number, json)) = bytes.split_first() else {
        return;
    };
    let feed = feed(*number);
    if let Ok(page) = answer::uploads(json, feed.channel, feed.kind, SystemTime::now()) {
        assert!(page.uploads.len() <= page.entries);
        assert!(
            page.uploads
                .is_sorted_by(|newer, older| newer.published >= older.published)
        );
        assert!(
            page.uploads
                .iter()
                .all(|upload| feed.kind.is_none_or(|kind| kind == upload.kind))
        );
        let channel = Channel::new(feed.channel, &page.title, page.uploads);
        assert!(channel.len() <= MAX_UPLOADS);
    }
    let found = answer::channels(json).unwrap_or_default().into_iter();
    for channel in found.chain(answer::uploader(json).unwrap_or_default()) {
        assert!(!channel.title.contains(steers) && channel.title.len() <= MAX_TEXT);
    }
    let error = answer::error(u16::from(*number), json);
    assert!(
        !matches!(error, ApiError::NoSuchChannel | ApiError::OutOfUnits { .. }),
        "it is an error, whatever it says"
    );
    let text = error.to_string();
    assert!(
        !text.contains(steers) && text.len() <= 2 * MAX_TEXT,
        "{text:?} is not one short line"
    );
}
