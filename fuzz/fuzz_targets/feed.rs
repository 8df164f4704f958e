//! Any bytes as a feed: no panic, no hang, no memory beyond what the bytes are worth. `just fuzz` runs it, on a
//! stable toolchain too.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use plaque::{
    upstream::Feed,
    video::{ChannelId, MAX_UPLOADS},
    youtube::feed,
};

fuzz_target!(|bytes: &[u8]| {
    // Kurzgesagt: the captures that the corpus begins with are its feeds.
    let channel: ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("a valid ID");
    let began = Instant::now();
    if let Ok(channel) = feed::parse(bytes, Feed::from(channel)) {
        assert!(channel.len() <= MAX_UPLOADS);
        for upload in channel.uploads() {
            std::hint::black_box((upload.url(), upload.title(), upload.thumbnail(), upload.views()));
        }
    }
    // Most take some microseconds.
    assert!(began.elapsed() < Duration::from_millis(100));
});
