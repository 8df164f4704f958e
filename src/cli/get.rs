//! `plaque get`: prints the newest uploads of channels.

use std::{process::ExitCode, time::Duration};

use tonic::{Request, transport::Channel};

use super::{
    Outcome,
    client::{self, failure, retry},
    show, values,
};
use crate::{
    channel_name::ChannelName,
    proto::{
        self,
        v1::{
            BatchGetLatestVideosRequest, LookupFailure, LookupResult, latest_video_client::LatestVideoClient,
            lookup_result::Outcome as Found,
        },
    },
};

const BATCH: usize = 100;

/// Asks a running plaque for the newest uploads of channels, and prints them.
///
/// On a terminal in a form for people, otherwise one line for each upload, with fields separated by tabs: VIDEO_ID, CHANNEL_ID,
/// PUBLISH_TIME (- if unknown), KIND (video or short), URL and TITLE. Exits with 1 if any channel failed.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: client::Args,

    /// The maximum age of an answer; 0s asks for one as new as the server allows (--min-refetch) [default: what the server calls fresh]
    #[arg(long, env = "PLAQUE_MAX_AGE", value_name = "DURATION", value_parser = values::duration)]
    max_age: Option<Duration>,

    /// Print one plaque.v1.LookupResult a line, as protobuf's JSON
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,
}

pub(super) async fn run(args: Args) -> Outcome {
    let client = args.client.connect().await?;
    let mut code = ExitCode::SUCCESS;
    for names in args.client.channels.chunks(BATCH) {
        for result in ask(&client, &args, names).await? {
            if matches!(result.outcome, Some(Found::Failure(_))) {
                code = ExitCode::FAILURE;
            }
            if args.json {
                let json = proto::to_json("LookupResult", &result).ok_or("cannot write JSON")?;
                show::json(&json)?;
            } else {
                show::result(&result)?;
            }
        }
    }
    Ok(code)
}

/// Looks up a batch of channels. If the call fails, so has each of them.
async fn ask(
    client: &LatestVideoClient<Channel>,
    args: &Args,
    names: &[ChannelName],
) -> Result<Vec<LookupResult>, prost_types::DurationError> {
    let resolved = names.iter().map(|name| args.client.resolve(client, name));
    let resolved = futures_util::future::join_all(resolved).await;
    let channels: Vec<String> = resolved.iter().flatten().cloned().collect();
    let mut results = look_up(client, args, channels).await?.into_iter();
    let in_order = resolved
        .iter()
        .zip(names)
        .filter_map(|(resolved, name)| match resolved {
            Ok(_) => results.next(),
            Err(status) => Some(failed(name.to_string(), failure(status))),
        });
    Ok(in_order.collect())
}

async fn look_up(
    client: &LatestVideoClient<Channel>,
    args: &Args,
    channel_ids: Vec<String>,
) -> Result<Vec<LookupResult>, prost_types::DurationError> {
    if channel_ids.is_empty() {
        return Ok(vec![]);
    }
    let batch = BatchGetLatestVideosRequest {
        channel_ids,
        kind: args.client.kind(),
        max_age: args.max_age.map(TryInto::try_into).transpose()?,
    };
    let asked = retry::with_retries(args.client.timeout, async |left| {
        let mut request = Request::new(batch.clone());
        request.set_timeout(left);
        client.clone().batch_get_latest_videos(request).await
    });
    let why = match asked.await {
        Ok(response) => return Ok(response.into_inner().results),
        Err(status) => failure(&status),
    };
    let each = batch.channel_ids.into_iter().map(|id| failed(id, why.clone()));
    Ok(each.collect())
}

fn failed(channel_id: String, why: LookupFailure) -> LookupResult {
    LookupResult {
        channel_id,
        outcome: Some(Found::Failure(why)),
    }
}
