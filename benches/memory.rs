//! The memory of a cached channel, as the system counts it: `cargo bench -p benches --bench memory`.
//!
//! Fills the cache like lookups do, from the bytes of a feed to the entry, and compares the growth of the process's
//! resident memory with the weigher's sum. An argument sets the number of channels: `cargo bench -p benches --bench memory -- 50000`.

#[path = "common/feeds.rs"]
mod feeds;
#[path = "common/resident.rs"]
mod resident;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use coalesce::Coalescer;
use mimalloc::MiMalloc;
use plaque::{
    cache_entry::CacheEntry,
    clock,
    latest::{self, FeedEntry},
    upstream::Feed,
};
use tokio::runtime::{self, Handle};

use self::{
    feeds::{UPLOADS, channel, id},
    resident::resident,
};

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The default number of channels.
const CHANNELS: u32 = 100_000;

/// The cache's capacity in bytes per channel: enough for all, but less than twice that, so that moka tracks frequencies as in a full
/// cache.
const CAPACITY_PER_CHANNEL: u64 = 2_560;

/// Channels looked up and dropped before the measurement, so that code is loaded and threads have heaps.
const WARM_UP: u32 = 200;

/// The same as `plaque serve` uses for lookups; each thread has its own heap.
const THREADS: usize = 2;

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
        kept += u32::from(cache.get(&id(number).into()).await.is_some());
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

/// A cache like that of `Latest`, with a capacity of `channels`.
fn cache(channels: u32) -> Coalescer<Feed, Arc<FeedEntry>> {
    Coalescer::builder(u64::from(channels) * CAPACITY_PER_CHANNEL)
        .low_priority_capacity(4 << 20)
        .weigher(|_feed, known: &Arc<FeedEntry>| latest::weight(known))
        .time_to_live(Duration::from_hours(24))
        .runtime(Handle::current())
        .build()
}

/// Looks up a channel like `Latest`, by parsing its feed.
async fn look_up(
    cache: &Coalescer<Feed, Arc<FeedEntry>>,
    number: u32,
) -> Result<Arc<FeedEntry>, Box<dyn Error>> {
    let waiter = cache.join(id(number).into(), move |_context| async move {
        Arc::new(CacheEntry::succeeded(
            Arc::new(channel(number)),
            clock::now(),
            SystemTime::now(),
        ))
    })?;
    Ok(waiter.outcome().await?)
}
