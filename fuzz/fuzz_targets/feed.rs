//! Any bytes as a feed: no panic, no hang, no memory beyond what the bytes are worth. `just fuzz` runs it, on a stable toolchain
//! too.

#![no_main]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use libfuzzer_sys::fuzz_target;
use plaque::{
    video::{ChannelId, MAX_UPLOADS},
    youtube::feed,
};

/// Most take some microseconds.
const LIMIT: Duration = Duration::from_millis(100);

fuzz_target!(|bytes: &[u8]| {
    // A machine that does something else for a while is no finding: it will not do so three times.
    assert!((0..3).any(|_| read(bytes) < LIMIT), "a hang");
});

/// Reads a feed, and says how long that took.
fn read(bytes: &[u8]) -> Duration {
    // Kurzgesagt's, as are most of the recorded feeds.
    let channel: ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("a valid ID");
    let began = Instant::now();
    if let Ok(channel) = feed::parse(bytes, channel) {
        assert!(channel.len() <= MAX_UPLOADS);
        for upload in channel.uploads() {
            black_box((upload.url(), upload.title(), upload.thumbnail(), upload.views()));
        }
    }
    began.elapsed()
}
