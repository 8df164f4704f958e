//! `plaque watch`: prints uploads as they come.

use std::{
    io::{self, Write as _},
    time::SystemTime,
};

use super::{
    Outcome,
    client::{self, failure},
    show,
};
use crate::proto::{
    self,
    v1::{
        WatchLatestVideoRequest, WatchLatestVideoResponse, lookup_result::Outcome as Found,
        watch_latest_video_response::Event,
    },
};

/// Prints what channels upload, as they do, until Ctrl-C: first each channel's newest upload, then each new one.
///
/// A channel whose lookups begin to fail is told of on standard error, once; the watch goes on. Exits with 1 when the server
/// ends the watch.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: client::Args,

    /// Begin with every upload since then that is in the feed, such as 2026-07-01T14:00:35Z, and not with the newest
    #[arg(long, env = "PLAQUE_PUBLISHED_AFTER", value_name = "TIME", value_parser = time)]
    published_after: Option<SystemTime>,

    /// Print one plaque.v1.WatchLatestVideoResponse a line, as protobuf's JSON
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|_| "expected a time in UTC, such as 2026-07-01T14:00:35Z".into())
}

pub(super) async fn run(args: Args) -> Outcome {
    let mut client = args.client.connect().await?;
    let request = WatchLatestVideoRequest {
        channel_ids: args.client.channels.iter().map(ToString::to_string).collect(),
        kind: args.client.kind(),
        published_after: args.published_after.map(Into::into),
    };
    let ended = async {
        let mut events = client.watch_latest_video(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            tell(&event, args.json)?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    match ended.await {
        Ok(()) => Err("the server ended the watch".into()),
        Err(error) => match error.downcast::<tonic::Status>() {
            Ok(status) => {
                let failure = failure(&status);
                Err(format!("{} ({})", failure.message, failure.reason).into())
            }
            Err(error) => Err(error),
        },
    }
}

fn tell(event: &WatchLatestVideoResponse, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    if json {
        let json = proto::to_json("WatchLatestVideoResponse", event).ok_or("cannot write JSON")?;
        writeln!(io::stdout(), "{json}")?;
        return Ok(());
    }
    match &event.event {
        Some(Event::Video(video)) => show::upload(video, None)?,
        Some(Event::Problem(problem)) => {
            if let Some(Found::Failure(why)) = &problem.outcome {
                show::failure(&problem.channel_id, why)?;
            }
        }
        None => {}
    }
    Ok(())
}
