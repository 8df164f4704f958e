//! Asks again and again for one of many channels, chosen at random: h2load can ask for one only.

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

    /// Among how many channels to choose
    #[arg(long)]
    channels: u64,

    /// Connections
    #[arg(long, default_value_t = 10)]
    connections: u32,

    /// Calls in progress on each
    #[arg(long, default_value_t = 10)]
    streams: u32,

    /// For how long
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let command = Command::parse();
    let calls = block_on(load(&command))??;
    println!("{calls} calls");
    Ok(())
}

/// Returns how many calls were answered.
async fn load(command: &Command) -> Result<u64, Box<dyn Error>> {
    let channels = command.channels;
    let end = Instant::now() + Duration::from_secs_f64(command.seconds);
    let mut callers = JoinSet::new();
    for _ in 0..command.connections {
        let client = connect(command.address).await?;
        for _ in 0..command.streams {
            let mut client = client.clone();
            callers.spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    let channel_id = made_up_channel(fastrand::u64(..channels));
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
