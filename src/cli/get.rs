//! `plaque get`: prints the newest uploads of channels.

use std::{cell::Cell, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    Outcome,
    client::{AHEAD, CONNECTION_LOST, Plaque, Turns, failed, retry},
    direct,
    exit::{Exit, Failed},
    show,
};
use crate::{
    proto::v1::{BatchGetLatestVideosRequest, LookupResult, lookup_result::Outcome as Found},
    video::ChannelName,
};

/// Calls in progress for IDs. Up to as many channels are looked up with a call each, so that no answer waits for another channel's.
const AT_ONCE: usize = 10;

/// The most channels of a call. With [`AT_ONCE`], these are as many lookups as a server with the default `--upstream-rate` starts in half
/// of `--max-queue-wait`.
const BATCH: usize = 5;

/// Asks a running plaque for the newest uploads of channels, or with --direct YouTube, and prints them in the order of the channels.
///
/// On a terminal, or with --color always, in a form for people; otherwise one line for each upload, with fields separated by tabs: VIDEO_ID,
/// CHANNEL_ID, PUBLISH_TIME (- if unknown), KIND (video or short), URL and TITLE.
#[derive(clap::Args)]
#[command(override_usage = "plaque get [OPTIONS] <CHANNEL>...")]
pub(super) struct Args {
    /// Print one plaque.v1.LookupResult a line, as protobuf's JSON; errors about no channel are text on standard error
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,

    // Last, since the heading of its last part would be that of the flags below, too.
    #[command(flatten)]
    lookup: direct::Args,
}

pub(super) async fn run(args: Args) -> Outcome {
    let Args { lookup, json } = &args;
    let channels = lookup.client.channels()?;
    let max_age = lookup.max_age.map(TryInto::try_into).transpose()?;
    let print = async |plaque: Plaque| {
        let mut exit = Exit::Success;
        let size = channels.len().div_ceil(AT_ONCE).clamp(1, BATCH);
        // A name is a batch of its own: finding it can take long.
        let is_id = |name: &ChannelName| matches!(name, ChannelName::Id(_));
        let runs = channels.chunk_by(|a, b| is_id(a) && is_id(b));
        let batches = runs.flat_map(|run| run.chunks(size));
        let (turns, has_server, answered) = (Turns::new(AT_ONCE), Cell::new(true), Cell::new(None));
        let batches = batches.map(async |names| {
            let _turn = turns.wait(&names[0]).await;
            if !has_server.get() {
                return (names, vec![]);
            }
            let began = Instant::now();
            let results = ask(&plaque, lookup, names, max_age).await;
            if !results.iter().all(is_lost) {
                answered.set(Some(Instant::now()));
            } else if answered.get().is_none_or(|at| at < began) {
                // Not if others were answered in that time: the server may come back.
                has_server.set(false);
            }
            (names, results)
        });
        let mut batches = stream::iter(batches).buffered(AHEAD);
        let (mut was_lost, mut left) = (false, 0);
        while let Some((names, results)) = batches.next().await {
            let lost = results.iter().all(is_lost);
            if results.is_empty() || lost && was_lost {
                // The first ones have told why.
                left += names.len();
                continue;
            }
            was_lost |= lost;
            for (name, mut result) in names.iter().zip(results) {
                if let Some(Found::Failure(why)) = &mut result.outcome {
                    lookup.explain(why);
                    exit = exit.max(Exit::of(why));
                }
                show::result(&name.to_string(), &result, *json)?;
            }
        }
        if left > 0 {
            let message = format!("no connection to the server; channels that were not looked up: {left}");
            // That of a mistake, such as http for https, which is not to be tried again.
            let exit = exit.max(Exit::TryAgain);
            return Err(Failed { message, exit }.into());
        }
        Ok(exit.into())
    };
    lookup.run(print).await
}

/// Looks up a batch of channels: IDs, or one name. If the call fails, so has each of them without an answer.
async fn ask(
    plaque: &Plaque,
    args: &direct::Args,
    names: &[ChannelName],
    max_age: Option<prost_types::Duration>,
) -> Vec<LookupResult> {
    let began = Instant::now();
    let mut channel_ids = Vec::with_capacity(names.len());
    for name in names {
        match args.client.resolve(plaque, name, began).await {
            Ok(id) => channel_ids.push(id),
            Err(status) => {
                let why = args.client.server.failure(&status);
                return vec![failed(name.to_string(), why)];
            }
        }
    }
    look_up(plaque, args, channel_ids, max_age, began).await
}

/// Looks up channels with one call, and then those whose failure may be temporary with further calls, each after the time that the server
/// asks for.
async fn look_up(
    plaque: &Plaque,
    args: &direct::Args,
    channel_ids: Vec<String>,
    max_age: Option<prost_types::Duration>,
    began: Instant,
) -> Vec<LookupResult> {
    let kind = args.client.kind();
    let mut results: Vec<Option<LookupResult>> = vec![None; channel_ids.len()];
    // The channels still to be looked up, each with the time that the server asks for.
    let mut pending: Vec<(usize, Option<Instant>)> =
        (0..channel_ids.len()).map(|index| (index, None)).collect();
    let answered = args.client.server.call(began, async |left| {
        let now = Instant::now();
        let (due, mut later): (Vec<_>, Vec<_>) =
            pending.iter().partition(|(_, at)| at.is_none_or(|at| at <= now));
        let mut request = Request::new(BatchGetLatestVideosRequest {
            channel_ids: due.iter().map(|(index, _)| channel_ids[*index].clone()).collect(),
            kind,
            max_age,
        });
        request.set_timeout(left);
        let answer = plaque.clone().batch_get_latest_videos(request).await?;
        let now = Instant::now();
        for ((index, _), result) in due.into_iter().zip(answer.into_inner().results) {
            if let Some(Found::Failure(why)) = &result.outcome
                && retry::is_transient_failure(why)
            {
                let pause = why.retry_after.and_then(|pause| Duration::try_from(pause).ok());
                later.push((index, pause.map(|pause| now + pause)));
            }
            // The time limit would hide why the first attempt failed.
            if results[index].is_none() || !is_late(&result) {
                results[index] = Some(result);
            }
        }
        pending = later;
        let Some(next) = pending.iter().map(|(_, at)| *at).min() else {
            return Ok(());
        };
        let pause = next.map(|at| at.saturating_duration_since(now));
        let details = ErrorDetails::with_retry_info(pause);
        Err(Status::with_error_details(Code::Unavailable, "", details))
    });
    let unanswered = match answered.await {
        Ok(()) => None,
        Err(status) => Some(args.client.server.failure(&status)),
    };
    let each = results.into_iter().zip(channel_ids);
    each.filter_map(|(result, id)| result.or_else(|| Some(failed(id, unanswered.clone()?))))
        .collect()
}

/// Whether there was no connection to the server within the time limit.
fn is_lost(result: &LookupResult) -> bool {
    matches!(&result.outcome, Some(Found::Failure(why)) if why.reason == CONNECTION_LOST)
}

fn is_late(result: &LookupResult) -> bool {
    matches!(&result.outcome, Some(Found::Failure(why)) if why.code == i32::from(Code::DeadlineExceeded))
}
