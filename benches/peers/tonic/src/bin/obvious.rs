//! The obvious implementation: moka's `try_get_with` in a tonic handler, over reqwest.

use std::{error::Error, time::Duration};

use clap::Parser as _;
use moka::future::Cache;
use peers::{
    proto::{GetLatestVideoRequest, GetLatestVideoResponse},
    service::{self, Answers, Args},
};
use reqwest::{Client, Url};
use tonic::{
    Status,
    transport::{Server, server::TcpIncoming},
};

/// Longer than the benchmark takes, so that cached channels stay fresh.
const TIME_TO_LIVE: Duration = Duration::from_hours(24);
/// More channels than are used.
const CHANNELS: u64 = 1 << 20;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,

    /// URL of the feeds
    #[arg(long)]
    upstream: Url,
}

struct Obvious {
    cache: Cache<String, GetLatestVideoResponse>,
    client: Client,
    upstream: Url,
    answer: GetLatestVideoResponse,
}

impl Obvious {
    /// Fetches the feed, and returns the fixed answer: parsing feeds is measured by benches/feed.rs.
    async fn look_up(&self, channel: &str) -> reqwest::Result<GetLatestVideoResponse> {
        let request = self
            .client
            .get(self.upstream.clone())
            .query(&[("channel_id", channel)]);
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(self.answer.clone())
    }
}

impl Answers for Obvious {
    async fn answer(&self, request: GetLatestVideoRequest) -> Result<GetLatestVideoResponse, Status> {
        let channel = request.channel_id;
        let found = self.cache.try_get_with(channel.clone(), self.look_up(&channel));
        found
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Command { args, upstream } = Command::parse();
    let server = Server::builder().add_service(service::serving(Obvious {
        cache: Cache::builder()
            .max_capacity(CHANNELS)
            .time_to_live(TIME_TO_LIVE)
            .build(),
        client: Client::builder().no_proxy().build()?,
        upstream,
        answer: args.answer()?,
    }));
    let incoming = TcpIncoming::bind(args.listen)?.with_nodelay(Some(true));
    service::ready("obvious", incoming.local_addr()?);
    Ok(server.serve_with_incoming(incoming).await?)
}
