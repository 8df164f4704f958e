//! `plaque list`: prints the newest uploads of channels.

use std::num::NonZeroUsize;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    Outcome,
    client::{AHEAD, NAMES_AT_ONCE, Plaque, Turns, failed},
    direct,
    exit::Exit,
    show, values,
};
use crate::{
    proto::v1::{Freshness, ListUploadsRequest, Video},
    video::MAX_UPLOADS,
};

/// The largest page.
const PAGE: usize = 50;

/// Lists the newest uploads of channels, newest first.
///
/// On a terminal, or with --color always, in a form for people; otherwise one line for each upload, with fields separated by tabs: VIDEO_ID,
/// CHANNEL_ID, PUBLISH_TIME (- if unknown), KIND (video, short, or - if unknown), URL and TITLE. A feed has 15 uploads; older ones are listed if
/// there is a key for the YouTube Data API.
#[derive(clap::Args)]
#[command(override_usage = "plaque list [OPTIONS] <CHANNEL>...")]
pub(super) struct Args {
    /// How many uploads of each channel
    #[arg(short = 'n', long, env = "PLAQUE_COUNT", default_value = "15", value_name = "COUNT", value_parser = values::count)]
    count: NonZeroUsize,

    /// Print one plaque.v1.Video a line, as protobuf's JSON; of a channel that fails, a plaque.v1.LookupResult; errors about no channel are
    /// text on standard error
    #[arg(long, env = "PLAQUE_JSON")]
    json: bool,

    // Last, since the heading of its last part would be that of the flags below, too.
    #[command(flatten)]
    lookup: direct::Args,
}

pub(super) async fn run(args: Args) -> Outcome {
    let client = &args.lookup.client;
    let channels = client.channels()?;
    let print = async |plaque: Plaque| {
        let mut exit = Exit::Success;
        let turns = Turns::new(NAMES_AT_ONCE);
        let lists = channels.iter().map(async |name| {
            let _turn = turns.wait(name).await;
            let (mut uploads, began) = (vec![], Instant::now());
            let (channel_id, ended) = match client.resolve(&plaque, name, began).await {
                Ok(id) => (id.clone(), list(&plaque, &args, id, began, &mut uploads).await),
                Err(status) => (name.to_string(), Err(status)),
            };
            (name.to_string(), channel_id, uploads, ended)
        });
        let mut lists = stream::iter(lists).buffered(AHEAD);
        while let Some((name, channel_id, uploads, ended)) = lists.next().await {
            for (video, freshness) in uploads {
                if args.json {
                    show::json("Video", &video)?;
                } else {
                    show::upload(&video, freshness)?;
                }
            }
            match ended {
                Ok(true) => show::print_error(&format!(
                    "{name}: the feed has {MAX_UPLOADS} uploads; any older ones need --youtube-api-key-file, of plaque serve or here with --direct"
                )),
                Ok(false) => {}
                Err(status) => {
                    let mut why = client.server.failure(&status);
                    args.lookup.explain(&mut why);
                    exit = exit.max(Exit::of(&why));
                    show::result(&name, &failed(channel_id, why), args.json)?;
                }
            }
        }
        Ok(exit.into())
    };
    args.lookup.run(print).await
}

/// As for `get` of such a channel. A server answers with an empty list.
fn no_uploads() -> Status {
    let details = ErrorDetails::with_error_info("NO_UPLOADS", "plaque", []);
    Status::with_error_details(Code::NotFound, "the channel has no such uploads", details)
}

/// Adds the uploads of a channel to `uploads`, the first with the age of the answer. Returns whether older ones were wanted and the server has
/// no key to list them: then a full feed is the whole list.
async fn list(
    plaque: &Plaque,
    args: &Args,
    channel_id: String,
    mut began: Instant,
    uploads: &mut Vec<(Video, Option<Freshness>)>,
) -> Result<bool, Status> {
    let Args { lookup, count, .. } = args;
    let max_age = lookup.max_age.map(TryInto::try_into).transpose();
    let mut list = ListUploadsRequest {
        channel_id,
        kind: lookup.client.kind(),
        max_age: max_age.map_err(|error| Status::invalid_argument(format!("{error}")))?,
        ..ListUploadsRequest::default()
    };
    loop {
        let left = count.get().saturating_sub(uploads.len());
        list.page_size = i32::try_from(left.min(PAGE)).unwrap_or_default();
        let page = lookup.client.server.call(began, async |left| {
            let mut request = Request::new(list.clone());
            request.set_timeout(left);
            plaque.clone().list_uploads(request).await
        });
        let mut page = page.await?.into_inner();
        let is_last = page.next_page_token.is_empty() || page.videos.len() >= left;
        uploads.extend(
            page.videos
                .into_iter()
                .map(|video| (video, page.freshness.take())),
        );
        if is_last {
            if uploads.is_empty() {
                return Err(no_uploads());
            }
            let is_full_feed = list.page_token.is_empty() && uploads.len() == MAX_UPLOADS;
            return Ok(is_full_feed && left > MAX_UPLOADS);
        }
        list.page_token = page.next_page_token;
        began = Instant::now();
    }
}
