//! Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.

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

/// A call without a deadline waits for as long as the server lets it.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often a call is made when connections are lost that it was to go over.
const ATTEMPTS: usize = 4;

/// Before a watch is resumed. It doubles until an event comes.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// The connection is pinged: otherwise a watch would not notice that the machine at its other end is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

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

async fn connect(server: &str) -> Result<Client, transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?.http2_keep_alive_interval(KEEPALIVE);
    Ok(LatestVideoClient::new(endpoint.connect().await?))
}

async fn get(client: &mut Client, channel_id: String) -> Result<(), Status> {
    let asked = GetLatestVideoRequest {
        channel_id,
        ..Default::default()
    };
    let answer = again(async || client.get_latest_video(in_time(asked.clone())).await).await?;
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
    let answer = again(async || client.batch_get_latest_videos(in_time(asked.clone())).await).await?;
    let answer = answer.into_inner();
    // The call succeeds although some of its channels fail.
    for LookupResult { channel_id, outcome } in answer.results {
        println!("batch: {channel_id} {}", describe(outcome));
    }
    Ok(())
}

/// Makes a call once more if its connection was lost. Other gRPC clients do so by themselves when a server ends a connection because of
/// its age; tonic fails every call that it has not sent by then. Calls of plaque only read, so two are as good as one.
async fn again<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(status) if is_of_the_connection(&status) => {}
            result => return result,
        }
    }
    call().await
}

/// Whether tonic made this status, of any code, because it lost the connection: only those have a source.
fn is_of_the_connection(status: &Status) -> bool {
    status.source().is_some()
}

fn describe(outcome: Option<Outcome>) -> String {
    match outcome {
        Some(Outcome::Found(found)) => found.video.unwrap_or_default().video_id,
        Some(Outcome::Failure(failure)) => failure.reason,
        None => "-".into(),
    }
}

/// Prints so many events. When the stream breaks, it is resumed where it was.
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
                // A newer server may have kinds of events that are not known here.
                let Some(event) = message.event else { continue };
                let (channel_id, text) = describe_event(event, message.initial);
                println!("watch: {channel_id} {text}");
                count = count.saturating_sub(1);
                if count == 0 {
                    return Ok(());
                }
                // Only now: an event that was not handled to its end comes again.
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
        // With jitter: the clients of a server that stopped must not all come back at once.
        let pause = delay.unwrap_or_default().max(backoff);
        sleep(pause.mul_f64(1.0 + fastrand::f64())).await;
        backoff = MAX_BACKOFF.min(2 * backoff);
    }
}

/// Which channel an event is about, and what happened.
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

/// Whether a watch goes on after this.
fn is_transient(status: &Status) -> bool {
    // Internal is what a proxy answers when it loses the server.
    is_of_the_connection(status)
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Internal
        )
}

/// How long the server asks to wait, if it does.
fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
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
    if let Some(delay) = retry_delay(status) {
        println!("retry: in {:.1} s", delay.as_secs_f64());
    }
}

async fn ask(args: Args) -> Result<(), Status> {
    let mut client = connect(&args.server)
        .await
        .map_err(|error| Status::from_error(error.into()))?;
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
