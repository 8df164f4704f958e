//! `plaque get`: prints the newest uploads of channels.

use tonic::Request;

use super::{
    Outcome,
    client::{Plaque, failure, retry},
    direct,
    exit::Exit,
    show,
};
use crate::{
    channel_name::ChannelName,
    proto::{
        self,
        v1::{BatchGetLatestVideosRequest, LookupFailure, LookupResult, lookup_result::Outcome as Found},
    },
};

const BATCH: usize = 100;

/// Asks a running plaque for the newest uploads of channels, or with --direct YouTube, and prints them.
///
/// On a terminal, or with --color always, in a form for people; otherwise one line for each upload, with fields separated by tabs: VIDEO_ID,
/// CHANNEL_ID, PUBLISH_TIME (- if unknown), KIND (video or short), URL and TITLE.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print one plaque.v1.LookupResult a line, as protobuf's JSON
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,

    // Last, since the heading of its last part would be that of the flags below, too.
    #[command(flatten)]
    lookup: direct::Args,
}

pub(super) async fn run(args: Args) -> Outcome {
    let Args { lookup, json } = &args;
    let channels = lookup.client.channels()?;
    let print = async |plaque: Plaque| {
        let mut exit = Exit::Success;
        for names in channels.chunks(BATCH) {
            for result in ask(&plaque, lookup, names).await? {
                if let Some(Found::Failure(why)) = &result.outcome {
                    exit = exit.max(Exit::of(why));
                }
                if *json {
                    let json = proto::to_json("LookupResult", &result).ok_or("cannot write JSON")?;
                    show::json(&json)?;
                } else {
                    show::result(&result)?;
                }
            }
        }
        Ok(exit.into())
    };
    lookup.run(print).await
}

/// Looks up a batch of channels. If the call fails, so has each of them.
async fn ask(
    plaque: &Plaque,
    args: &direct::Args,
    names: &[ChannelName],
) -> Result<Vec<LookupResult>, prost_types::DurationError> {
    let resolved = names.iter().map(|name| args.client.resolve(plaque, name));
    let resolved = futures_util::future::join_all(resolved).await;
    let channels: Vec<String> = resolved.iter().flatten().cloned().collect();
    let mut results = look_up(plaque, args, channels).await?.into_iter();
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
    plaque: &Plaque,
    args: &direct::Args,
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
    let asked = retry::with_retries(args.client.server.timeout, async |left| {
        let mut request = Request::new(batch.clone());
        request.set_timeout(left);
        plaque.clone().batch_get_latest_videos(request).await
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
