//! What the subcommands that are gRPC clients share: where to ask, for what, and what an error means.

use std::{error::Error as _, time::Duration};

use clap::ValueEnum;
use http::Uri;
use tokio::runtime;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{Outcome, values};
use crate::{
    proto::v1::{LookupFailure, VideoKind, latest_video_client::LatestVideoClient},
    video::ChannelId,
};

/// Runs a client: one thread is enough.
pub(super) fn block_on(client: impl Future<Output = Outcome>) -> Outcome {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(client)
}

/// Flags of every client.
#[derive(clap::Args)]
#[group(id = "client")]
pub(super) struct Args {
    /// Channel IDs: UC and 22 more characters, as in the address of the channel's page
    #[arg(required = true, value_name = "CHANNEL")]
    pub(super) channels: Vec<ChannelId>,

    /// The server to ask
    #[arg(long, env = "PLAQUE_SERVER", default_value = "http://127.0.0.1:3779", value_name = "URL", value_parser = server)]
    server: Uri,

    /// Only uploads of this kind
    #[arg(long, env = "PLAQUE_KIND", default_value = "any")]
    kind: Kind,

    /// How long to wait for the connection, and for each answer
    #[arg(long, env = "PLAQUE_TIMEOUT", default_value = "15s", value_name = "DURATION", value_parser = values::time_limit)]
    pub(super) timeout: Duration,
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

impl Args {
    /// A client that is connected, or what to do about it.
    pub(super) async fn connect(&self) -> Result<LatestVideoClient<Channel>, String> {
        let endpoint = Endpoint::from(self.server.clone()).connect_timeout(self.timeout);
        let connection = endpoint.connect().await.map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}"));
            format!(
                "cannot reach {}{}; is `plaque serve` running there? Another server can be named with --server",
                self.server,
                cause.unwrap_or_default()
            )
        })?;
        Ok(LatestVideoClient::new(connection))
    }

    /// The kind that was asked for, as the API has it.
    pub(super) fn kind(&self) -> i32 {
        let kind = match self.kind {
            Kind::Any => VideoKind::Unspecified,
            Kind::Video => VideoKind::Video,
            Kind::Short => VideoKind::Short,
        };
        kind.into()
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
