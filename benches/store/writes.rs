//! What a file costs the disk: bytes written for each lookup that is kept, by how many of them are committed at once.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use plaque::{
    clock,
    latest::FeedEntry,
    store::{
        Lease, Store as _, codec,
        file::{Ages, File},
    },
    upstream::Feed,
    video::Channel,
};

use super::{BUDGET, Bench, FILE_BYTES, figures::figure, table::table};

/// How many channels there are in the file, all of which were there before.
const KEPT: [u32; 3] = [1_000, 10_000, 60_000];

/// Lookups in one commit. At 20 a second, 10 are those of half a second, 200 those of ten.
const COMMITTED: [u32; 4] = [10, 50, 200, 1_000];

/// Lookups for each figure, of channels at random: more than the rows that may be stale (docs/store.md).
const LOOKUPS: u32 = 10_000;

pub fn report(bench: &Bench) -> String {
    let mut table = table(&[
        "channels in the file",
        "lookups a commit",
        "bytes kept",
        "bytes written",
        "/ kept",
        "GB a day at 20/s",
    ]);
    for count in if bench.quick { &KEPT[..1] } else { &KEPT[..] } {
        let path = bench.folder.join(format!("writes-{count}"));
        let file = File::open(&path, FILE_BYTES, BUDGET, Ages::new(Duration::ZERO))
            .expect("a file that can be written");
        let channel = |number| bench.channels[number as usize % bench.channels.len()].clone();
        bench.runtime.block_on(async {
            for number in 0..*count {
                save(&file, number, channel(number)).await;
                if number % 1_000 == 0 {
                    file.written().await;
                }
            }
            file.written().await;
        });
        for at_once in COMMITTED {
            let before = written();
            let mut bytes = 0;
            bench.runtime.block_on(async {
                for lookup in 0..LOOKUPS {
                    let number = fastrand::u32(..*count);
                    bytes += save(&file, number, channel(number)).await;
                    if (lookup + 1) % at_once == 0 {
                        file.written().await;
                    }
                }
            });
            let each =
                |bytes: u64| f64::from(u32::try_from(bytes / u64::from(LOOKUPS)).expect("some thousands"));
            let (kept, written) = (each(bytes), each(written() - before));
            table.add_row([
                figure(f64::from(*count)),
                figure(f64::from(at_once)),
                figure(kept),
                figure(written),
                figure(written / kept),
                figure(written * 20.0 * 86_400.0 / 1e9),
            ]);
        }
        bench.runtime.block_on(file.close(Duration::from_mins(1)));
    }
    format!("{table}")
}

/// Keeps `like` as the channel of this number, and returns the length of that.
async fn save(file: &File, number: u32, like: Channel) -> u64 {
    let feed = Feed::from(super::feeds::id(number.wrapping_mul(2_654_435_761)));
    let known: FeedEntry =
        plaque::cache_entry::CacheEntry::succeeded(Arc::new(like), clock::now(), SystemTime::now());
    file.save(feed, &known, Lease::Uncoordinated).await;
    codec::encode(&known, clock::now()).map_or(0, |bytes| bytes.len() as u64)
}

/// What this process has handed to the system to write, in bytes: little but the file. What the system counts as written to disks
/// (`write_bytes`) goes by its larger pages where it has some, and can be ten times that.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("Linux");
    let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    bytes.and_then(|bytes| bytes.parse().ok()).expect("a number")
}
