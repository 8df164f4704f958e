//! Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use heck::ToShoutySnakeCase as _;
use tokio::time::timeout;
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

use self::plaque::{
    BatchGetLatestVideosRequest, GetLatestVideoRequest, LookupResult, WatchLatestVideoRequest,
    latest_video_client::LatestVideoClient, lookup_result::Outcome, watch_latest_video_response::Event,
};

mod plaque {
    tonic::include_proto!("plaque.v1");
}

type Client = LatestVideoClient<Channel>;

/// A call without a deadline waits for as long as the server lets it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks plaque what channels uploaded last
#[derive(clap::Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:3779")]
    server: String,
    /// Watch until so many
    #[arg(long, default_value_t = 10)]
    events: usize,
    /// Or for so long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(default_value = "UCsXVk37bltHxD1rDPwtNM8Q")]
    channels: Vec<String>,
}

async fn get(client: &mut Client, channel_id: String) -> Result<(), Status> {
    let asked = GetLatestVideoRequest {
        channel_id,
        ..Default::default()
    };
    let answer = client.get_latest_video(in_time(asked)).await?;
    let made = answer
        .metadata()
        .get("cache-status")
        .and_then(|text| text.to_str().ok())
        .unwrap_or("-")
        .to_owned();
    let video = answer.into_inner().video.unwrap_or_default();
    println!(
        "latest: {} {} {}",
        video.video_id,
        video.kind().as_str_name(),
        video.title
    );
    println!("cache-status: {made}");
    Ok(())
}

async fn batch(client: &mut Client, channel_ids: Vec<String>) -> Result<(), Status> {
    let asked = BatchGetLatestVideosRequest {
        channel_ids,
        ..Default::default()
    };
    let answer = client.batch_get_latest_videos(in_time(asked)).await?.into_inner();
    // The call succeeds although some of its channels fail.
    for LookupResult { channel_id, outcome } in answer.results {
        println!("batch: {channel_id} {}", describe(outcome));
    }
    Ok(())
}

fn describe(outcome: Option<Outcome>) -> String {
    match outcome {
        Some(Outcome::Found(found)) => found.video.unwrap_or_default().video_id,
        Some(Outcome::Failure(failure)) => failure.reason,
        None => "-".into(),
    }
}

async fn watch(client: &mut Client, channel_ids: Vec<String>, count: usize) -> Result<(), Status> {
    let asked = WatchLatestVideoRequest {
        channel_ids,
        ..Default::default()
    };
    let mut events = client.watch_latest_video(asked).await?.into_inner();
    for _ in 0..count {
        let Some(told) = events.message().await? else {
            break;
        };
        match told.event {
            Some(Event::Video(video)) => {
                let when = if told.initial { "initial" } else { "new" };
                println!("watch: {} {} {when}", video.channel_id, video.video_id);
            }
            Some(Event::Problem(LookupResult { channel_id, outcome })) => {
                println!("watch: {channel_id} {}", describe(outcome));
            }
            None => {}
        }
    }
    Ok(())
}

fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Prints an error: the reason is for programs to switch on, the message is for people.
fn explain(status: &Status) {
    let code = format!("{:?}", status.code()).to_shouty_snake_case();
    let reason = status
        .get_details_error_info()
        .map_or_else(|| "-".into(), |info| info.reason);
    println!("error: {code} {reason}: {}", status.message());
    if let Some(delay) = status
        .get_details_retry_info()
        .and_then(|retry| retry.retry_delay)
    {
        println!("retry: in {:.1} s", delay.as_secs_f64());
    }
}

async fn ask(args: Args) -> Result<(), Status> {
    let connected = LatestVideoClient::connect(format!("http://{}", args.server)).await;
    let mut client = connected.map_err(|error| Status::from_error(error.into()))?;
    get(&mut client, args.channels[0].clone()).await?;
    batch(&mut client, args.channels.clone()).await?;
    // tonic would keep a deadline of its own until the watch begins only. To drop it is to end it.
    let watched = timeout(
        Duration::from_secs(args.seconds),
        watch(&mut client, args.channels, args.events),
    )
    .await;
    watched.unwrap_or(Ok(()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match ask(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => {
            explain(&status);
            ExitCode::FAILURE
        }
    }
}
