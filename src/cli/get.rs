//! `plaque get`: a gRPC client that prints what channels uploaded last.

use std::{
    error::Error as _,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use futures_util::{StreamExt as _, stream};
use http::Uri;
use tokio::runtime;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{Outcome, values};
use crate::{
    proto::{
        self,
        v1::{
            GetLatestVideoRequest, GetLatestVideoResponse, LookupFailure, LookupResult, VideoKind,
            latest_video_client::LatestVideoClient, lookup_result::Outcome as Result_,
        },
    },
    video::ChannelId,
};

/// Calls at once: enough to hide the latency of a few hundred channels, and well below the server's 200 streams a connection.
const CALLS_AT_ONCE: usize = 64;

/// Asks a running plaque what channels uploaded last, and prints it.
///
/// Exits with 1 if any channel failed.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Channel IDs: UC and 22 more characters, as in the address of the channel's page
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<ChannelId>,

    /// The server to ask
    #[arg(long, env = "PLAQUE_SERVER", default_value = "http://127.0.0.1:3779", value_name = "URL", value_parser = server)]
    server: Uri,

    /// Only uploads of this kind
    #[arg(long, env = "PLAQUE_KIND", default_value = "any")]
    kind: Kind,

    /// How old an answer will do; 0s asks for a new lookup [default: what the server calls fresh]
    #[arg(long, env = "PLAQUE_MAX_AGE", value_name = "DURATION", value_parser = values::duration)]
    max_age: Option<Duration>,

    /// How long to wait for the connection, and for each answer
    #[arg(long, env = "PLAQUE_TIMEOUT", default_value = "15s", value_name = "DURATION", value_parser = values::time_limit)]
    timeout: Duration,

    /// Print one plaque.v1.LookupResult a line, as protobuf's JSON
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Any,
    Video,
    Short,
}

fn server(text: &str) -> Result<Uri, String> {
    match text.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => Ok(uri),
        _ => Err("expected an address such as http://127.0.0.1:3779".into()),
    }
}

pub(super) fn run(args: Args) -> Outcome {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(get(args))
}

async fn get(args: Args) -> Outcome {
    let address = args.server.clone();
    let endpoint = Endpoint::from(args.server).connect_timeout(args.timeout);
    let connection = endpoint.connect().await.map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}"));
        format!(
            "cannot reach {address}{}; is `plaque serve` running there? Another server can be named with --server",
            cause.unwrap_or_default()
        )
    })?;
    let kind = match args.kind {
        Kind::Any => VideoKind::Unspecified,
        Kind::Video => VideoKind::Video,
        Kind::Short => VideoKind::Short,
    };
    let max_age = args.max_age.map(TryInto::try_into).transpose()?;
    let mut results = stream::iter(args.channels)
        .map(|channel| {
            let mut request = Request::new(GetLatestVideoRequest {
                channel_id: channel.to_string(),
                kind: kind.into(),
                max_age,
            });
            request.set_timeout(args.timeout);
            ask(connection.clone(), channel, request)
        })
        .buffered(CALLS_AT_ONCE);

    let mut code = ExitCode::SUCCESS;
    while let Some(result) = results.next().await {
        if matches!(result.outcome, Some(Result_::Failure(_))) {
            code = ExitCode::FAILURE;
        }
        if args.json {
            let json = proto::to_json("LookupResult", &result).ok_or("cannot write JSON")?;
            writeln!(io::stdout(), "{json}")?;
        } else {
            print(&result)?;
        }
    }
    Ok(code)
}

async fn ask(
    connection: Channel,
    channel: ChannelId,
    request: Request<GetLatestVideoRequest>,
) -> LookupResult {
    let answer = LatestVideoClient::new(connection).get_latest_video(request).await;
    LookupResult {
        channel_id: channel.to_string(),
        outcome: Some(match answer {
            Ok(response) => Result_::Found(response.into_inner()),
            Err(status) => Result_::Failure(failure(&status)),
        }),
    }
}

/// What a status says, as a message of the API.
pub(super) fn failure(status: &Status) -> LookupFailure {
    let details = status.get_error_details();
    // tonic's client calls its own giving up CANCELLED, and may do so before the server's word of it arrives.
    let gave_up = status.code() == Code::Cancelled;
    let (code, reason) = match details.error_info() {
        Some(info) => (status.code(), info.reason.clone()),
        None if gave_up => (Code::DeadlineExceeded, "DEADLINE".into()),
        None => (status.code(), status.code().description().into()),
    };
    LookupFailure {
        code: code.into(),
        reason,
        message: status.message().to_owned(),
        retry_after: details
            .retry_info()
            .and_then(|info| info.retry_delay?.try_into().ok()),
    }
}

fn print(result: &LookupResult) -> io::Result<()> {
    match &result.outcome {
        Some(Result_::Found(found)) => {
            writeln!(io::stdout(), "{}", describe(found, SystemTime::now()))
        }
        Some(Result_::Failure(failure)) => {
            writeln!(
                io::stderr(),
                "{}: {} ({})",
                result.channel_id,
                printable(&failure.message),
                failure.reason,
            )
        }
        None => Ok(()),
    }
}

fn describe(found: &GetLatestVideoResponse, now: SystemTime) -> String {
    let video = found.video.clone().unwrap_or_default();
    let title = match video.title.as_str() {
        "" => "(no title)",
        title => title,
    };
    let kind = match video.kind() {
        VideoKind::Short => "Short",
        VideoKind::Video | VideoKind::Unspecified => "video",
    };
    let published = video
        .publish_time
        .and_then(|time| SystemTime::try_from(time).ok())
        .map_or_else(
            || ", published at an unknown time".into(),
            |time| {
                format!(
                    ", published {}{}",
                    humantime::format_rfc3339_seconds(time),
                    ago(time, now)
                )
            },
        );
    let views = video
        .view_count
        .map_or_else(String::new, |views| format!(", {views} views"));
    let fetched = found
        .freshness
        .filter(|freshness| freshness.stale)
        .and_then(|freshness| SystemTime::try_from(freshness.fetch_time?).ok())
        .map_or_else(String::new, |time| {
            format!("\n  an old answer: fetched{}", ago(time, now))
        });
    format!(
        "{}\n  {kind} by {}{published}{views}{fetched}\n  {}",
        printable(title),
        printable(&video.channel_title),
        printable(&video.url),
    )
}

/// ` (3days ago)`: the largest unit is enough for a person.
fn ago(time: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(time) else {
        return String::new();
    };
    let age = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    let largest = age.split(' ').next().unwrap_or_default();
    format!(" ({largest} ago)")
}

/// A title may hold anything; what would steer the terminal is left out.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Freshness, Video};

    #[test]
    fn an_answer_is_described_without_steering_the_terminal() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let found = GetLatestVideoResponse {
            video: Some(Video {
                title: "Red\u{1b}[31m alert".into(),
                channel_title: "Tide".into(),
                url: "https://www.youtube.com/shorts/aaaaaaaaaaA".into(),
                kind: VideoKind::Short.into(),
                publish_time: Some(at(1_000_000).into()),
                view_count: Some(7),
                ..Video::default()
            }),
            freshness: Some(Freshness {
                fetch_time: Some(at(1_003_600).into()),
                stale: true,
            }),
        };
        assert_eq!(
            describe(&found, at(1_000_000 + 2 * 86_400)),
            "Red[31m alert\n  Short by Tide, published 1970-01-12T13:46:40Z (2days ago), 7 views\n  \
             an old answer: fetched (1day ago)\n  https://www.youtube.com/shorts/aaaaaaaaaaA"
        );
    }
}
