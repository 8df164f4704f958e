//! Any bytes as a feed: no panic, no hang, no memory beyond what the bytes are worth. The other targets are in
//! src/fuzzing.rs; this one needs nothing that is not public.

#![no_main]

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use libfuzzer_sys::fuzz_target;
use plaque::{video::{ChannelId, MAX_UPLOADS}, youtube::feed};

/// Most take some microseconds.
const LIMIT: Duration = Duration::from_millis(100);

fuzz_target!(|bytes: &[u8]| {
    // A machine that does something else for a while is no finding: then it is the time on the processor that counts.
    if read(bytes) > LIMIT {
        let before = on_processor();
        read(bytes);
        assert!(on_processor() - before < LIMIT, "a hang");
    }
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

/// How long this thread has run; the first number of its `schedstat`, in nanoseconds.
fn on_processor() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let nanoseconds = stat.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}
