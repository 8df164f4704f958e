//! The cost of parsing a feed, compared with feed-rs alone on the same bytes: `cargo bench -p benches --bench feed -- --bench FOLDER`, or `just
//! bench-feed`. The folder has recorded feeds (`*.xml`).
//!
//! Measures times with Criterion, and instructions with perf or valgrind, whichever works on this machine.

#[path = "common/instructions.rs"]
mod instructions;

use std::{
    env,
    error::Error,
    fs,
    hint::black_box,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use criterion::Criterion;
use mimalloc::MiMalloc;
use plaque::{video::ChannelId, youtube::feed};

use self::instructions::difference;

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How often a child process parses a feed; the longer run does so ten times as often.
const TIMES: u64 = 100;

/// The channel of a recorded feed follows this in its author's URL.
const PAGE: &str = "youtube.com/channel/";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [child, reader, file, times] = arguments.as_slice()
        && child == "child"
    {
        let (bytes, channel) = recorded(&PathBuf::from(file))?.ok_or("no channel's feed")?;
        for _ in 0..times.parse()? {
            match reader.as_str() {
                "plaque" => _ = black_box(feed::parse(black_box(&bytes), channel)),
                _ => _ = black_box(feed_rs::parser::parse(black_box(&bytes[..]))),
            }
        }
        return Ok(());
    }
    let folder = arguments.first().ok_or("which folder has the feeds?")?;
    let mut files: Vec<_> = fs::read_dir(folder)?
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    files.sort();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    for file in files {
        let Some((bytes, channel)) = recorded(&file)? else {
            continue;
        };
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut group = criterion.benchmark_group(&name);
        group.bench_function("plaque", |bencher| {
            bencher.iter(|| feed::parse(black_box(&bytes), channel));
        });
        group.bench_function("feed-rs", |bencher| {
            bencher.iter(|| feed_rs::parser::parse(black_box(&bytes[..])));
        });
        group.finish();
        let count = |reader: &str| {
            let path = file.to_str().unwrap_or_default();
            difference(&["child", reader, path], TIMES)
        };
        let mut out = io::stdout().lock();
        let (Some((mine, tool)), Some((bare, _))) = (count("plaque"), count("feed-rs")) else {
            writeln!(
                out,
                "{name}: neither perf nor valgrind counts instructions here\n"
            )?;
            continue;
        };
        let thousandths = mine * 1000 / bare.max(1);
        let its = if feed_rs::parser::parse(&bytes[..]).is_ok() {
            ""
        } else {
            ", which fails"
        };
        writeln!(
            out,
            "{name}, {} bytes: {mine} instructions; feed-rs {bare}{its}; plaque / feed-rs {}.{:03}, by {tool}\n",
            bytes.len(),
            thousandths / 1000,
            thousandths % 1000,
        )?;
    }
    Ok(())
}

/// Reads a recorded feed and its channel. `None` if it has no channel.
fn recorded(file: &PathBuf) -> io::Result<Option<(Vec<u8>, ChannelId)>> {
    let text = fs::read_to_string(file)?;
    let id = text
        .split_once(PAGE)
        .and_then(|(_, rest)| rest.get(..ChannelId::LEN));
    let Some(channel) = id.and_then(|id| id.parse().ok()) else {
        return Ok(None);
    };
    Ok(Some((text.into_bytes(), channel)))
}
