//! Gets the newest upload of a channel, then of several in a batch, and then watches them.

use std::{collections::HashMap, error::Error as _, process::ExitCode, time::Duration};

use clap::Parser as _;
use heck::ToShoutySnakeCase as _;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Status,
    transport::{self, Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use self::plaque::{
    BatchGetLatestVideosRequest, GetLatestVideoRequest, LookupResult, Missed, Recovered,
    WatchLatestVideoRequest, latest_video_client::LatestVideoClient, lookup_result::Outcome,
    watch_latest_video_response::Event,
};

mod plaque {
    tonic::include_proto!("plaque.v1");
}

type Client = LatestVideoClient<Channel>;

/// Of each attempt. tonic has no service config: `retry` repeats calls that lose their connection, at once; other errors are told.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often a call is attempted when its connection is lost.
const ATTEMPTS: usize = 4;

/// The pause before a watch is resumed. Doubles until an event arrives.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Pings the connection, so that a watch detects that the server's machine is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Asks plaque what channels uploaded last
#[derive(clap::Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:3779")]
    server: String,
    /// Stop the watch after this many events
    #[arg(long, default_value_t = 10)]
    events: usize,
    /// Or after this many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(default_value = "UCsXVk37bltHxD1rDPwtNM8Q")]
    channels: Vec<String>,
}

async fn connect(server: &str) -> Result<Client, transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?.http2_keep_alive_interval(KEEPALIVE);
    Ok(LatestVideoClient::new(endpoint.connect().await?))
}

async fn get(client: &mut Client, channel_id: String) -> Result<(), Status> {
    let request = GetLatestVideoRequest {
        channel_id,
        ..Default::default()
    };
    let answer = retry(async || client.get_latest_video(with_deadline(request.clone())).await).await?;
    let cache_status = answer
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
    println!("cache-status: {cache_status}");
    Ok(())
}

async fn batch(client: &mut Client, channel_ids: Vec<String>) -> Result<(), Status> {
    let request = BatchGetLatestVideosRequest {
        channel_ids,
        ..Default::default()
    };
    let answer = retry(async || {
        client
            .batch_get_latest_videos(with_deadline(request.clone()))
            .await
    })
    .await?;
    let answer = answer.into_inner();
    // The call succeeds even if some of its channels fail.
    for LookupResult { channel_id, outcome } in answer.results {
        println!("batch: {channel_id} {}", describe(outcome));
    }
    Ok(())
}

/// Retries a call if its connection was lost. When a server closes a connection because of its age, other gRPC clients retry calls that
/// were not sent yet; tonic fails them. Calls of plaque only read, so repeating them is safe.
async fn retry<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(status) if is_connection_error(&status) => {}
            result => return result,
        }
    }
    call().await
}

/// Whether tonic created this status because it lost the connection. Only such statuses have a source.
fn is_connection_error(status: &Status) -> bool {
    status.source().is_some()
}

fn describe(outcome: Option<Outcome>) -> String {
    match outcome {
        Some(Outcome::Found(found)) => found.video.unwrap_or_default().video_id,
        Some(Outcome::Failure(failure)) => failure.reason,
        None => "-".into(),
    }
}

/// Prints `count` events. Resumes the stream when it breaks.
async fn watch(client: &mut Client, channel_ids: Vec<String>, mut count: usize) -> Result<(), Status> {
    let mut tokens = HashMap::new();
    let mut backoff = MIN_BACKOFF;
    loop {
        let request = WatchLatestVideoRequest {
            channel_ids: channel_ids.clone(),
            resume_tokens: tokens.values().cloned().collect(),
            ..Default::default()
        };
        let received = async {
            let mut events = client.watch_latest_video(request).await?.into_inner();
            while let Some(message) = events.message().await? {
                backoff = MIN_BACKOFF;
                // Ignores kinds of events that only newer servers have.
                let Some(event) = message.event else { continue };
                let (channel_id, text) = describe_event(event, message.initial);
                println!("watch: {channel_id} {text}");
                count = count.saturating_sub(1);
                if count == 0 {
                    return Ok(());
                }
                // Stored only after the event was handled; otherwise it is sent again.
                if !message.resume_token.is_empty() {
                    tokens.insert(channel_id, message.resume_token);
                }
            }
            Err(Status::unavailable("the server ended the watch"))
        };
        let Err(status) = received.await else {
            return Ok(());
        };
        let delay = retry_delay(&status);
        if delay.is_none() && !is_transient(&status) {
            return Err(status);
        }
        // With jitter, so that the clients of a stopped server do not all reconnect at once.
        let pause = delay.unwrap_or_default().max(backoff);
        sleep(pause.mul_f64(1.0 + fastrand::f64())).await;
        backoff = MAX_BACKOFF.min(2 * backoff);
    }
}

/// The channel of an event, and a description.
fn describe_event(event: Event, initial: bool) -> (String, String) {
    match event {
        Event::Video(video) => {
            let when = if initial { "initial" } else { "new" };
            (video.channel_id, format!("{} {when}", video.video_id))
        }
        Event::Problem(LookupResult { channel_id, outcome }) => (channel_id, describe(outcome)),
        Event::Recovered(Recovered { channel_id }) => (channel_id, "lookups work again".into()),
        Event::Missed(Missed { channel_id }) => (channel_id, "uploads may have been missed".into()),
    }
}

/// Whether a watch is resumed after this error.
fn is_transient(status: &Status) -> bool {
    // Proxies answer Internal when they lose the server.
    is_connection_error(status)
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Internal
        )
}

/// The delay that the server asks for.
fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Prints an error. Programs switch on the reason; the message is for humans.
fn explain(status: &Status) {
    let code = format!("{:?}", status.code()).to_shouty_snake_case();
    let reason = status
        .get_details_error_info()
        .map_or_else(|| "-".into(), |info| info.reason);
    println!("error: {code} {reason}: {}", status.message());
    if let Some(delay) = retry_delay(status) {
        println!("retry: in {:.1} s", delay.as_secs_f64());
    }
}

async fn run(args: Args) -> Result<(), Status> {
    let mut client = connect(&args.server)
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    get(&mut client, args.channels[0].clone()).await?;
    batch(&mut client, args.channels.clone()).await?;
    // tonic applies a deadline only until the first message. Dropping the future ends the watch.
    let result = timeout(
        Duration::from_secs(args.seconds),
        watch(&mut client, args.channels, args.events),
    )
    .await;
    result.unwrap_or(Ok(()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => {
            explain(&status);
            ExitCode::FAILURE
        }
    }
}
