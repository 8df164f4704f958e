//! Calls GetLatestVideo for random channels. h2load can repeat only one request.

use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser as _;
use peers::{
    block_on,
    client::{connect, made_up_channel},
    proto::GetLatestVideoRequest,
};
use tokio::task::JoinSet;
use tonic::Status;

#[derive(clap::Parser)]
struct Command {
    /// The server
    #[arg(long)]
    address: SocketAddr,

    /// The number of channels to choose from
    #[arg(long)]
    channels: u64,

    /// Choose by Zipf's law, like popularity, and not uniformly
    #[arg(long)]
    zipf: bool,

    /// Connections
    #[arg(long, default_value_t = 10)]
    connections: u32,

    /// Concurrent calls on each
    #[arg(long, default_value_t = 10)]
    streams: u32,

    /// Duration
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let command = Command::parse();
    let calls = block_on(load(&command))??;
    println!("{calls} calls");
    Ok(())
}

/// Returns the number of answered calls.
async fn load(command: &Command) -> Result<u64, Box<dyn Error>> {
    let (channels, zipf) = (command.channels, command.zipf);
    let end = Instant::now() + Duration::from_secs_f64(command.seconds);
    let mut callers = JoinSet::new();
    for _ in 0..command.connections {
        let client = connect(command.address).await?;
        for _ in 0..command.streams {
            let mut client = client.clone();
            callers.spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    let channel_id = made_up_channel(choose(channels, zipf));
                    client
                        .get_latest_video(GetLatestVideoRequest {
                            channel_id,
                            ..GetLatestVideoRequest::default()
                        })
                        .await?;
                    calls += 1;
                }
                Ok::<_, Status>(calls)
            });
        }
    }
    let mut calls = 0;
    while let Some(ended) = callers.join_next().await {
        calls += ended??;
    }
    Ok(calls)
}

/// Chooses one of `channels`. By Zipf's law the first ten are chosen as often as the next ninety, and as the 900 after them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "below 2^52"
)]
fn choose(channels: u64, zipf: bool) -> u64 {
    if zipf {
        // The logarithm of the rank is uniformly distributed.
        (channels as f64).powf(fastrand::f64()) as u64 - 1
    } else {
        fastrand::u64(..channels)
    }
}
