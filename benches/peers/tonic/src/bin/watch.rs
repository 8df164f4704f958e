//! Opens many watches of one channel, and prints when all of them have received an upload.
//!
//! Prints a line for each upload: when the first and the last watch received it, in microseconds since 1970. The first line is for the
//! upload that exists from the start.

use std::{
    error::Error,
    net::SocketAddr,
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use peers::{
    block_on,
    client::connect,
    cores,
    proto::{
        WatchLatestVideoRequest, latest_video_client::LatestVideoClient, watch_latest_video_response::Event,
    },
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

#[derive(clap::Parser)]
struct Command {
    /// The server
    #[arg(long)]
    address: SocketAddr,

    /// The channel to watch
    #[arg(long)]
    channel: String,

    /// Connections
    #[arg(long)]
    connections: usize,

    /// Watches on each
    #[arg(long)]
    streams: usize,
}

/// The number of uploads received by all watches together.
static RECEIVED: AtomicU64 = AtomicU64::new(0);
/// When the first watch received the latest upload.
static FIRST: AtomicU64 = AtomicU64::new(0);

fn main() {
    let command = Command::parse();
    // One thread per core, each with a share of the connections: a shared runtime would add its own wake-ups to the measurement.
    thread::scope(|threads| {
        for number in 0..cores() {
            let command = &command;
            threads.spawn(move || {
                let share = (number..command.connections).step_by(cores()).len();
                let ended = block_on(watch_all(command, share));
                eprintln!("a watch has ended: {ended:?}");
                process::exit(1);
            });
        }
    });
}

/// Returns when the first watch ends.
async fn watch_all(command: &Command, connections: usize) -> Result<(), Box<dyn Error>> {
    let watches = u64::try_from(command.connections * command.streams)?;
    let mut open = JoinSet::new();
    for _ in 0..connections {
        let client = connect(command.address).await?;
        for _ in 0..command.streams {
            open.spawn(watch(client.clone(), command.channel.clone(), watches));
        }
    }
    match open.join_next().await {
        Some(ended) => Err(ended?.unwrap_err()),
        // More cores than connections.
        None => std::future::pending().await,
    }
}

/// Runs one watch. Its end is an error.
async fn watch(
    mut client: LatestVideoClient<Channel>,
    channel: String,
    watches: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let request = WatchLatestVideoRequest {
        channel_ids: vec![channel],
        ..WatchLatestVideoRequest::default()
    };
    let mut events = client.watch_latest_video(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let Some(Event::Video(_)) = event.event else {
            return Err(format!("no upload: {event:?}").into());
        };
        record(watches);
    }
    Err("without an error".into())
}

/// Records that one of `watches` has received an upload.
fn record(watches: u64) {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros())
    };
    let received = RECEIVED.fetch_add(1, Relaxed) + 1;
    if received % watches == 1 {
        FIRST.store(u64::try_from(now()).unwrap_or(0), Relaxed);
    }
    if received.is_multiple_of(watches) {
        println!("{} {}", FIRST.load(Relaxed), now());
    }
}
