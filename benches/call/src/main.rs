//! What a hit costs, in instructions: what is known looked at, the answer encoded, and a whole call over a pipe in memory.
//!
//! `cargo run --release -p call` prints them beside those in `instructions.txt`, the figures of the last change that meant to change
//! them; with `-- --save` it writes them there. Times differ from machine to machine and from run to run; instructions hardly do,
//! and a change that adds some to every call shows. Needs perf, or valgrind where perf may not count.
//!
//! A store is no matter of hits: with one they take as many, or this fails. It is a file, since the connection to Redis proves itself
//! once a second, which is instructions by time and not by hits.
//!
//! A package of its own, so that it is built from what a release is built from, and from nothing else.

#[path = "../../common/instructions.rs"]
mod instructions;
mod pipe;

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    hint::black_box,
    io::{self, Write as _},
    process,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use mimalloc::MiMalloc;
use plaque::{
    config::Connections,
    grpc,
    latest::{Latest, Policy, Query, Settings},
    lifecycle::Stage,
    server,
    store::{
        Store,
        file::{Ages, File, MIN_BYTES},
    },
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::{Channel, ChannelId, Kind, Thumbnail, Upload, VideoId},
};
use tokio::{runtime::Handle, sync::watch};

use self::instructions::difference;

/// The program's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What is counted. Each is a child's work.
const PARTS: [&str; 3] = ["known", "encode", "call"];

/// What is counted once more with a store, which may add a hundredth: from run to run they differ by less.
const STORED: [&str; 2] = ["known", "call"];
const MAY_ADD: u64 = 100;

/// How often a child does it; the longer run has ten times as many.
const TIMES: u64 = 2_000;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");

const CHANNEL: &str = "UC0123456789abcdefghijkA";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [child, part, stored @ .., times] = arguments.as_slice()
        && child == "child"
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let path = env::temp_dir().join(format!("plaque-call-{}", process::id()));
        let store = (!stored.is_empty()).then(|| {
            File::open(
                &path,
                MIN_BYTES,
                Duration::from_secs(1),
                Ages::new(Duration::ZERO),
            )
        });
        runtime.block_on(run(part, store.transpose()?.map(Arc::new), times.parse()?));
        if !stored.is_empty() {
            fs::remove_file(path)?;
        }
        return Ok(());
    }
    let recorded = fs::read_to_string(RECORD).unwrap_or_default();
    let mut record = String::new();
    let mut out = io::stdout().lock();
    for part in PARTS {
        let count = |child: &[&str]| difference(child, TIMES).ok_or("neither perf nor valgrind counts here");
        let (without, tool) = count(&["child", part])?;
        writeln!(record, "{part} {without}")?;
        let before = recorded
            .lines()
            .find_map(|line| line.strip_prefix(part)?.trim().parse::<u64>().ok());
        let beside = before.map_or("none recorded".into(), |before| {
            format!("{} of the {before} recorded", ratio(without, before))
        });
        writeln!(out, "{part}: {without} instructions, by {tool}; {beside}")?;
        if STORED.contains(&part) {
            let may_be = without + without / MAY_ADD;
            let (mut with, _tool) = count(&["child", part, "stored"])?;
            // The store's thread works by the clock, and is counted too: on a slow machine it does more meanwhile.
            for _ in 0..2 {
                if with > may_be {
                    with = with.min(count(&["child", part, "stored"])?.0);
                }
            }
            let beside = ratio(with, without);
            writeln!(
                out,
                "{part}, with a store: {with} instructions; {beside} of those without"
            )?;
            if with > may_be {
                return Err("a hit has to do with the store, which is for misses".into());
            }
        }
    }
    if arguments.iter().any(|argument| argument == "--save") {
        fs::write(RECORD, record)?;
    }
    Ok(())
}

/// In thousandths.
fn ratio(count: u64, other: u64) -> String {
    let thousandths = count * 1000 / other.max(1);
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

async fn run(part: &str, file: Option<Arc<File>>, times: u64) {
    let latest = Arc::new(Latest::new(
        Arc::new(OneChannel),
        file.clone().map(|file| file as Arc<dyn Store>),
        settings(),
        Handle::current(),
    ));
    let query = Query {
        channel: CHANNEL.parse().expect("a channel ID"),
        kind: None,
        max_age: None,
    };
    let first = latest.get(query).await.outcome.expect("an answer");
    if let Some(file) = &file {
        // Or it would be while hits are counted.
        file.written().await;
    }
    match part {
        "known" => {
            for _ in 0..times {
                black_box(latest.get(black_box(query)).await);
            }
        }
        "encode" => {
            let mut buffer = Vec::with_capacity(1024);
            for _ in 0..times {
                grpc::encode(black_box(&first), &mut buffer);
                black_box(&buffer);
                buffer.clear();
            }
        }
        _ => {
            let calls = grpc::Limits::default();
            let (_stage, stages) = watch::channel(Stage::Serving);
            let callers = Arc::new(grpc::Callers::new(None));
            let service = grpc::serve(latest, calls, callers, stages, Arc::default()).expect("descriptors");
            let (client, server) = tokio::io::duplex(64 << 10);
            tokio::spawn(server::converse(server, service, calls, Connections::default()));
            let message = [&[0x0a, 24], CHANNEL.as_bytes()].concat();
            pipe::call(client, "/plaque.v1.LatestVideo/GetLatestVideo", &message, times).await;
        }
    }
}

fn settings() -> Settings {
    let long = Duration::from_hours(1);
    Settings {
        policy: Policy {
            fresh_for: long,
            stale_while_revalidate: long,
            stale_if_error: long,
            negative_for: long,
            min_refetch: Duration::ZERO,
        },
        cache_bytes: 1 << 20,
        max_waiters: 1,
        watch_every: long,
        watch_at_most: long,
        max_watched: 100_000,
        canary: None,
    }
}

/// Knows one channel, with one upload, of common lengths.
struct OneChannel;

impl Upstream for OneChannel {
    fn look_up(&self, feed: Feed, _request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async move { Ok(channel(feed.channel)) })
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}

fn channel(id: ChannelId) -> Channel {
    let video: VideoId = "0123456789A".parse().expect("a video ID");
    let published = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let upload = Upload {
        id: video,
        kind: Kind::Video,
        title: "An upload, with a title of as many bytes as is common!!".into(),
        published: Some(published),
        updated: Some(published + Duration::from_hours(1)),
        thumbnail: Some(Thumbnail {
            url: format!("https://i3.ytimg.com/vi/{video}/hqdefault.jpg"),
            width: 480,
            height: 360,
        }),
        views: Some(1_234_567),
    };
    Channel::new(id, "A channel's title", vec![upload])
}
