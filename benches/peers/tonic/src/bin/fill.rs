//! Fills a server's cache with many channels, in batches.

use std::{error::Error, net::SocketAddr, time::Instant};

use clap::Parser as _;
use peers::{
    block_on,
    client::{connect, made_up_channel},
    proto::{BatchGetLatestVideosRequest, lookup_result::Outcome},
};
use tokio::task::JoinSet;

/// The largest batch.
const BATCH: u64 = 100;
/// Enough to keep the upstream busy: 1,000 lookups in progress or queued.
const BATCHES_AT_ONCE: u64 = 10;

#[derive(clap::Parser)]
struct Command {
    /// The server
    #[arg(long)]
    address: SocketAddr,

    /// The number of channels
    #[arg(long)]
    channels: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Command { address, channels } = Command::parse();
    let began = Instant::now();
    block_on(async {
        let client = connect(address).await?;
        let mut fillers = JoinSet::new();
        for filler in 0..BATCHES_AT_ONCE {
            let mut client = client.clone();
            fillers.spawn(async move {
                for first in (filler * BATCH..channels).step_by(usize::try_from(BATCH * BATCHES_AT_ONCE)?) {
                    let batch = BatchGetLatestVideosRequest {
                        channel_ids: (first..channels.min(first + BATCH))
                            .map(made_up_channel)
                            .collect(),
                        ..BatchGetLatestVideosRequest::default()
                    };
                    let answer = client.batch_get_latest_videos(batch).await?.into_inner();
                    for result in answer.results {
                        let Some(Outcome::Found(_)) = result.outcome else {
                            return Err(format!("not found: {result:?}").into());
                        };
                    }
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            });
        }
        while let Some(ended) = fillers.join_next().await {
            ended?.map_err(|error| error.to_string())?;
        }
        Ok::<_, Box<dyn Error>>(())
    })??;
    println!(
        "filled {channels} channels in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}
