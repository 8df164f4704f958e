//! `plaque watch`: prints uploads as they appear.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::{
    InvalidFlags, Outcome,
    client::{self, NAMES_AT_ONCE, failed, failure, retry},
    exit::{Exit, Failed},
    show,
};
use crate::{
    grpc::MAX_CHANNELS,
    proto::v1::{
        LookupFailure, LookupResult, WatchLatestVideoRequest, WatchLatestVideoResponse,
        lookup_result::Outcome as Found, watch_latest_video_response::Event,
    },
};

/// The longest pause between attempts to reconnect. A connection that lasts this long resets the pauses.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The pauses between attempts to reconnect. Jitter adds up to as much again, so that the watchers of a restarted server do not all return
/// at once.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(MAX_PAUSE.as_secs() / 2))
    .without_max_times()
    .with_jitter();

/// Prints uploads of up to 100 channels as they appear, until Ctrl-C: first each channel's newest upload, then each new one.
///
/// On a terminal, or with --color always, in a form for people; otherwise one line for each upload, with fields separated by tabs: VIDEO_ID,
/// CHANNEL_ID, PUBLISH_TIME (- if unknown), KIND (video or short), URL and TITLE.
///
/// Standard error says when lookups of a channel begin to fail and when they work again, and that uploads may have been missed; the watch
/// continues. When the server stops or the connection is lost, it reconnects and prints what was uploaded in between, as far as the feed
/// still shows it, and nothing twice. Exits if the first connection fails or has no answer within --timeout, if none of the channels is
/// found, or if the server refuses the watch.
#[derive(clap::Args)]
#[command(override_usage = "plaque watch [OPTIONS] <CHANNEL>...")]
pub(super) struct Args {
    #[command(flatten)]
    client: client::Args,

    /// Begin with every upload in the feed since this time, such as 2026-07-01T14:00:35Z, instead of the newest
    #[arg(long, env = "PLAQUE_PUBLISHED_AFTER", value_name = "TIME", value_parser = time)]
    published_after: Option<SystemTime>,

    /// Print one plaque.v1.WatchLatestVideoResponse a line, as protobuf's JSON; a name that is not found and a refused watch are a problem, too;
    /// other errors are text on standard error
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|_| "expected a time in UTC, such as 2026-07-01T14:00:35Z".into())
}

pub(super) async fn run(args: Args) -> Outcome {
    let mut channels = args.client.channels()?;
    let mut seen = HashSet::new();
    channels.retain(|name| seen.insert(name.clone()));
    if channels.len() > MAX_CHANNELS {
        let given = channels.len();
        let message = format!("{given} channels; a watch has at most {MAX_CHANNELS}: start several");
        return Err(InvalidFlags(message).into());
    }
    let server = &args.client.server;
    let client = server.connect().await?;
    let found = channels
        .iter()
        .map(async |name| (name, args.client.resolve(&client, name, Instant::now()).await));
    let mut found = stream::iter(found).buffered(NAMES_AT_ONCE);
    // As they were given, by ID.
    let mut names = BTreeMap::new();
    let (mut channel_ids, mut left) = (vec![], channels.len());
    while let Some((name, found)) = found.next().await {
        left -= 1;
        match found {
            Ok(id) => {
                if names.insert(id.clone(), name.to_string()).is_none() {
                    channel_ids.push(id);
                }
            }
            // The other channels can be watched without it.
            Err(status) if status.code() == Code::NotFound && names.len() + left > 0 => {
                print(
                    &problem(name.to_string(), server.failure(&status)),
                    &names,
                    args.json,
                )?;
            }
            Err(status) => return end(name.to_string(), server.failure(&status), args.json),
        }
    }
    let request = WatchLatestVideoRequest {
        channel_ids,
        kind: args.client.kind(),
        published_after: args.published_after.map(Into::into),
        resume_tokens: vec![],
    };
    let open = async |request| {
        let opened = timeout(server.timeout, client.clone().watch_latest_video(request)).await;
        // A server answers a watch at once, so that a silent one counts as no connection.
        let opened = opened.unwrap_or_else(|late| Err(Status::from_error(late.into())));
        Ok(server.checked(opened).await?.into_inner())
    };
    let ended = watch(request, open, |output| match output {
        Output::Event(event) => print(event, &names, args.json),
        Output::Lost(status) => {
            show::reconnecting(&server.address, &failure(status));
            Ok(())
        }
    });
    let ended = ended.await?;
    if let Some(cause) = retry::connection_error(&ended) {
        return Err(server.unreachable(cause).into());
    }
    end(String::new(), failure(&ended), args.json)
}

/// The end of a watch that is not begun again, because of `channel` if that is not empty.
fn end(channel: String, why: LookupFailure, json: bool) -> Outcome {
    let exit = Exit::of(&why);
    if !json {
        let message = show::failure(&channel, &why);
        return Err(Failed { message, exit }.into());
    }
    print(&problem(channel, why), &BTreeMap::new(), json)?;
    Ok(exit.into())
}

fn problem(channel: String, why: LookupFailure) -> WatchLatestVideoResponse {
    WatchLatestVideoResponse {
        event: Some(Event::Problem(failed(channel, why))),
        ..WatchLatestVideoResponse::default()
    }
}

enum Output<'a> {
    Event(&'a WatchLatestVideoResponse),
    /// The connection or the server was lost. Reported once, until the watch continues.
    Lost(&'a Status),
}

/// Watches over connections made by `open`, one after the other, until a failure for which reconnecting would not help; returns that. Each
/// connection resumes with the last token of each channel.
async fn watch<S>(
    request: WatchLatestVideoRequest,
    open: impl AsyncFn(WatchLatestVideoRequest) -> Result<S, Status>,
    mut print: impl FnMut(Output<'_>) -> Result<(), Box<dyn Error>>,
) -> Result<Status, Box<dyn Error>>
where
    S: Stream<Item = Result<WatchLatestVideoResponse, Status>> + Unpin,
{
    let mut pauses = PAUSES.build();
    let mut tokens = BTreeMap::new();
    let (mut answered, mut outage) = (false, false);
    loop {
        let request = WatchLatestVideoRequest {
            resume_tokens: tokens.values().cloned().collect(),
            ..request.clone()
        };
        let failed = match open(request).await {
            Ok(mut events) => {
                answered = true;
                let opened = Instant::now();
                let failed = loop {
                    match events.next().await.unwrap_or_else(|| Err(ended())) {
                        Ok(event) => {
                            outage = false;
                            print(Output::Event(&event))?;
                            if let Some(channel) = channel(&event) {
                                tokens.insert(channel.to_owned(), event.resume_token);
                            }
                        }
                        Err(status) => break status,
                    }
                };
                outage &= opened.elapsed() < MAX_PAUSE;
                failed
            }
            // Something accepts connections there, but it may not be a gRPC server, or may expect TLS.
            Err(status) if !answered && retry::connection_error(&status).is_some() => return Ok(status),
            Err(status) => status,
        };
        if !outage {
            pauses = PAUSES.build();
        }
        let Some(pause) = retry::pause(&failed, &mut pauses, is_transient) else {
            return Ok(failed);
        };
        if !outage {
            print(Output::Lost(&failed))?;
            outage = true;
        }
        sleep(pause).await;
    }
}

fn channel(event: &WatchLatestVideoResponse) -> Option<&str> {
    Some(match event.event.as_ref()? {
        Event::Video(video) => &video.channel_id,
        Event::Problem(problem) => &problem.channel_id,
        Event::Recovered(recovered) => &recovered.channel_id,
        Event::Missed(missed) => &missed.channel_id,
    })
}

/// The status of a stream that ends without an error.
fn ended() -> Status {
    Status::unavailable("the server ended the watch")
}

/// Whether a failure may be temporary. An invalid request stays invalid.
fn is_transient(code: Code, _asked: bool) -> bool {
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

/// Prints an event. `names`: the channels' names as they were given, by ID.
fn print(
    event: &WatchLatestVideoResponse,
    names: &BTreeMap<String, String>,
    json: bool,
) -> Result<(), Box<dyn Error>> {
    if json {
        return Ok(show::json("WatchLatestVideoResponse", event)?);
    }
    let id = channel(event).unwrap_or_default();
    let name = names.get(id).map_or(id, String::as_str);
    match &event.event {
        Some(Event::Video(video)) => show::upload(video, None)?,
        Some(Event::Problem(LookupResult {
            outcome: Some(Found::Failure(why)),
            ..
        })) => {
            // The server tries again by itself.
            let why = LookupFailure {
                retry_after: None,
                ..why.clone()
            };
            show::print_error(&show::failure(name, &why));
        }
        Some(Event::Recovered(_)) => show::print_error(&format!("{name}: lookups work again")),
        Some(Event::Missed(_)) => {
            show::print_error(&format!(
                "{name}: more uploads than its feed shows; some may be missing"
            ));
        }
        Some(Event::Problem(_)) | None => {}
    }
    Ok(())
}
