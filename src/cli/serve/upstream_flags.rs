//! The flags of `plaque serve` that say where feeds are looked up, and how.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use reqwest::Url;

use crate::{
    cli::{pem::Pem, values},
    config,
    youtube::{self, Pace},
};

#[derive(clap::Args)]
pub(super) struct UpstreamArgs {
    /// Where the feeds are; channel_id=… or playlist_id=… is appended
    #[arg(long, env = "PLAQUE_UPSTREAM", default_value = config::YOUTUBE, value_name = "URL", value_parser = config::upstream_url)]
    upstream: Url,

    /// The time that one lookup may take from the moment it goes out: connecting, and the whole answer
    #[arg(long, env = "PLAQUE_UPSTREAM_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = values::time_limit)]
    upstream_timeout: Duration,

    /// How many lookups may be under way at once
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_CONCURRENCY",
        default_value = "32",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_concurrency: NonZeroUsize,

    /// How many lookups may go out a second, on average; a second's worth may go out at once; 0 for no limit
    #[arg(long, env = "PLAQUE_UPSTREAM_RATE", default_value = "20", value_name = "COUNT", value_parser = values::rate)]
    upstream_rate: f64,

    /// How many lookups may wait for their turn; callers of further ones get OVERLOADED
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_QUEUE",
        default_value = "1000",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_queue: NonZeroUsize,

    /// The longest that a lookup waits for its turn; if its turn would come later, its callers get OVERLOADED at once
    #[arg(long, env = "PLAQUE_MAX_QUEUE_WAIT", default_value = "5s", value_name = "DURATION", value_parser = values::time_limit)]
    max_queue_wait: Duration,

    /// Certificates of authorities to trust beside the system's, in PEM: for an upstream with a private CA
    #[arg(long, env = "PLAQUE_UPSTREAM_CA", value_name = "FILE")]
    upstream_ca: Option<PathBuf>,
}

impl UpstreamArgs {
    /// The settings that the flags make.
    pub(super) fn settings(&self) -> Result<youtube::Settings, String> {
        Ok(youtube::Settings {
            feeds: self.upstream.clone(),
            time_limit: self.upstream_timeout,
            pace: Pace {
                concurrency: self.upstream_concurrency,
                rate: (self.upstream_rate > 0.0).then_some(self.upstream_rate),
                queue: self.upstream_queue,
                max_queue_wait: self.max_queue_wait,
            },
            authorities: self
                .upstream_ca
                .as_deref()
                .map(|file| Pem::read("--upstream-ca", file).map(|pem| pem.content))
                .transpose()?,
        })
    }
}
