//! What a cached channel costs, as the system counts it: `cargo bench --bench memory`.
//!
//! Fills the cache the way a lookup does, from the bytes of a feed to the entry, and compares the growth of the process's
//! resident memory with what the weigher says. An argument sets the number of channels: `cargo bench --bench memory -- 50000`.

#[path = "common/resident.rs"]
mod resident;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mimalloc::MiMalloc;
use plaque::{
    coalesce::{Coalescer, Entry, Limits},
    latest::{self, Known},
    origin::{self, Upload},
    upstream::Feed,
    video::ChannelId,
    youtube::feed,
};
use tokio::runtime::{self, Handle};

use self::resident::resident;

/// The program's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Unless an argument says otherwise.
const CHANNELS: u32 = 100_000;

/// As many as a feed of YouTube's has.
const UPLOADS: u32 = 15;

/// What the cache has room for, in bytes a channel: enough for all, and less than twice that, so that moka counts frequencies as
/// it does when the cache is full.
const ROOM: u64 = 2_560;

/// Looked up and dropped before anything is measured, so that code is loaded and threads have their heaps.
const WARM_UP: u32 = 200;

/// As many as `plaque serve` has for lookups: each has a heap of its own.
const THREADS: usize = 2;

/// What titles are made of: most letters are one byte, some two, three or four.
const WORDS: [&str; 8] = ["the", "größte", "of", "tide", "日本", "🌊", "measured", "again"];

fn main() -> Result<(), Box<dyn Error>> {
    let channels = env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(CHANNELS);
    runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?
        .block_on(measure(channels))
}

async fn measure(channels: u32) -> Result<(), Box<dyn Error>> {
    let warm_up = cache(WARM_UP);
    for number in 0..WARM_UP {
        look_up(&warm_up, number).await?;
    }
    drop(warm_up);

    let before = resident();
    let cache = cache(channels);
    let mut weighed = 0;
    for number in 0..channels {
        weighed += latest::weight(&*look_up(&cache, number).await?) as usize;
    }
    let grown = resident().saturating_sub(before).max(1);

    let mut kept = 0;
    for number in 0..channels {
        kept += u32::from(
            cache
                .known(&id(number).parse::<ChannelId>()?.into())
                .await
                .is_some(),
        );
    }
    let each = |bytes: usize| bytes / channels.max(1) as usize;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{kept} of {channels} channels kept, with {UPLOADS} uploads each"
    )?;
    writeln!(out, "resident memory grew by {} bytes a channel", each(grown))?;
    writeln!(out, "the weigher says        {} bytes a channel", each(weighed))?;
    let (whole, thousandths) = (weighed / grown, weighed * 1000 / grown % 1000);
    writeln!(out, "weigher : memory      = {whole}.{thousandths:03}")?;
    Ok(())
}

/// A cache as `Latest` makes it, with room for `channels`.
fn cache(channels: u32) -> Coalescer<Feed, Arc<Known>> {
    let limits = Limits {
        weight: u64::from(channels) * ROOM,
        ..Limits::default()
    };
    Coalescer::new(
        limits,
        |_feed, known: &Arc<Known>| latest::weight(known),
        Handle::current(),
    )
}

/// Looks up a channel as `Latest` does. The lookup makes the feed up, reads it, and keeps nothing else.
async fn look_up(cache: &Coalescer<Feed, Arc<Known>>, number: u32) -> Result<Arc<Known>, Box<dyn Error>> {
    let channel: ChannelId = id(number).parse()?;
    let waiter = cache.join(channel.into(), move |_known| async move {
        let channel = feed::parse(feed(number).as_bytes(), channel).expect("a feed");
        Arc::new(Entry::succeeded(
            Arc::new(channel),
            Instant::now(),
            SystemTime::now(),
        ))
    })?;
    Ok(waiter.outcome().await?)
}

fn id(number: u32) -> String {
    format!("UC{number:021}A")
}

fn feed(number: u32) -> String {
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|upload| Upload {
            id: format!("{number:08}{upload:02}A"),
            // Any length from 15 to 95 bytes, in no order: 55 on average, which is that of the longest titles recorded.
            title: title(number, 15 + (number % 81 * UPLOADS + upload) as usize * 37 % 81),
            short: upload.is_multiple_of(3),
            published: SystemTime::UNIX_EPOCH + Duration::from_hours(450_000)
                - Duration::from_hours(1) * upload,
        })
        .collect();
    origin::xml(&id(number), &title(number, 18), &uploads)
}

/// A title of `length` bytes, at least 10.
fn title(number: u32, length: usize) -> String {
    let mut title = number.to_string();
    for word in WORDS.iter().cycle() {
        if title.len() + 1 + word.len() > length {
            break;
        }
        title.push(' ');
        title.push_str(word);
    }
    let rest = length - title.len();
    title + &"!".repeat(rest)
}
