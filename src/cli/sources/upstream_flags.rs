//! The flags for the upstream and the sources after it.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::ValueEnum;
use http::HeaderValue;
use reqwest::Url;

use crate::{
    cli::{pem::Pem, values},
    config,
    youtube::{self, IpVersion, Pace, Proxy, data_api},
};

#[derive(Clone, Copy, ValueEnum)]
enum Ip {
    /// Whichever connects first
    Any,
    /// IPv4 only
    #[value(name = "4")]
    V4,
    /// IPv6 only
    #[value(name = "6")]
    V6,
}

#[derive(clap::Args)]
pub(super) struct UpstreamArgs {
    /// The address of the feeds; channel_id=… or playlist_id=… is appended. Handles and other names are looked up at --youtube-pages
    #[arg(long, env = "PLAQUE_UPSTREAM", default_value = config::YOUTUBE, value_name = "URL", value_parser = config::upstream_url)]
    upstream: Url,

    /// Another server with the same feeds, which is asked when the upstream fails; may be repeated, or have commas between several, in order.
    /// {channel_id} in the path is replaced; otherwise channel_id=… is appended
    #[arg(long, env = "PLAQUE_FALLBACK_UPSTREAM", value_name = "URL", value_delimiter = ',', value_parser = config::upstream_url)]
    fallback_upstream: Vec<Url>,

    /// A file with a key for the YouTube Data API, which is asked when feeds fail, and whether a channel exists. Read again when it changes
    #[arg(long, env = "PLAQUE_YOUTUBE_API_KEY_FILE", value_name = "FILE")]
    youtube_api_key_file: Option<PathBuf>,

    /// The address of the YouTube Data API: https, or http on this machine
    #[arg(long, env = "PLAQUE_YOUTUBE_API", default_value = config::YOUTUBE_API, value_name = "URL", value_parser = config::youtube_api_url, requires = "youtube_api_key_file")]
    youtube_api: Url,

    /// The units of the YouTube Data API that may be spent a day, by all replicas that share a store; a lookup costs one to three
    #[arg(long, env = "PLAQUE_YOUTUBE_API_QUOTA", default_value = "10000", value_name = "UNITS", value_parser = values::units, requires = "youtube_api_key_file")]
    youtube_api_quota: u64,

    /// The address of channels' pages, by which handles and names are resolved
    #[arg(long, env = "PLAQUE_YOUTUBE_PAGES", default_value = config::YOUTUBE_PAGES, value_name = "URL", value_parser = config::upstream_url)]
    youtube_pages: Url,

    /// The time limit of one lookup, without its wait in the queue: connecting, and the whole response. A fifth of it, but at least 2s, for the
    /// upstream and for mirrors if there is another source after them
    #[arg(long, env = "PLAQUE_UPSTREAM_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = values::time_limit)]
    upstream_timeout: Duration,

    /// The most concurrent lookups
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_CONCURRENCY",
        default_value = "32",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_concurrency: NonZeroUsize,

    /// The most lookups a second, on average, with a burst of one second's worth; 0 for no limit
    #[arg(long, env = "PLAQUE_UPSTREAM_RATE", default_value = "20", value_name = "COUNT", value_parser = values::rate)]
    upstream_rate: f64,

    /// The most queued lookups; callers of further ones get OVERLOADED
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_QUEUE",
        default_value = "1000",
        value_name = "COUNT",
        value_parser = values::count
    )]
    upstream_queue: NonZeroUsize,

    /// The longest wait in the queue; callers of a lookup that would wait longer get OVERLOADED at once
    #[arg(long, env = "PLAQUE_MAX_QUEUE_WAIT", default_value = "5s", value_name = "DURATION", value_parser = values::time_limit)]
    max_queue_wait: Duration,

    /// Certificates of authorities to trust in addition to the system's, in PEM: for an upstream with a private CA
    #[arg(long, env = "PLAQUE_UPSTREAM_CA", value_name = "FILE")]
    upstream_ca: Option<PathBuf>,

    /// A proxy for lookups: http, https, socks5 (names are resolved here) or socks5h (there), as in socks5h://[USER:PASSWORD@]HOST[:PORT].
    /// HTTP_PROXY and similar variables are ignored [default: none]
    // Parsed later: clap's errors contain the value, and this one may contain a password.
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_PROXY",
        hide_env_values = true,
        value_name = "URL"
    )]
    upstream_proxy: Option<String>,

    /// The User-Agent of lookups
    #[arg(long, env = "PLAQUE_UPSTREAM_USER_AGENT", default_value = youtube::USER_AGENT, value_name = "TEXT", value_parser = values::user_agent)]
    upstream_user_agent: HeaderValue,

    /// The IP version for connections to the upstream, or to its proxy
    #[arg(
        long,
        env = "PLAQUE_UPSTREAM_IP",
        default_value = "any",
        value_name = "VERSION"
    )]
    upstream_ip: Ip,
}

impl UpstreamArgs {
    /// The settings that the flags make.
    pub(super) fn settings(&self) -> Result<youtube::Settings, String> {
        let proxy = self
            .upstream_proxy
            .as_deref()
            .map(str::parse::<Proxy>)
            .transpose();
        let proxy = proxy.map_err(|error| format!("invalid value of --upstream-proxy: {error}"))?;
        let ip_version = match self.upstream_ip {
            Ip::Any => IpVersion::Any,
            Ip::V4 => IpVersion::V4,
            Ip::V6 => IpVersion::V6,
        };
        let (flag, first_hop) = match &proxy {
            Some(proxy) => ("--upstream-proxy", proxy.url()),
            None => ("--upstream", &self.upstream),
        };
        if !ip_version.reaches(first_hop) {
            return Err(format!(
                "--upstream-ip: {flag} is at {}, an address of the other protocol; expected any",
                first_hop.host_str().unwrap_or_default()
            ));
        }
        for feeds in self.fallback_upstream.iter().filter(|_| proxy.is_none()) {
            if !ip_version.reaches(feeds) {
                return Err(format!(
                    "--upstream-ip: --fallback-upstream is at {}, an address of the other protocol; expected any",
                    feeds.host_str().unwrap_or_default()
                ));
            }
        }
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
            proxy,
            ip_version,
            user_agent: self.upstream_user_agent.clone(),
        })
    }

    /// The settings of the mirrors: those of the upstream, at other addresses.
    pub(super) fn mirrors(&self) -> Result<Vec<youtube::Settings>, String> {
        let settings = self.settings()?;
        let at = |feeds: &Url| youtube::Settings {
            feeds: feeds.clone(),
            ..settings.clone()
        };
        Ok(self.fallback_upstream.iter().map(at).collect())
    }

    /// The number of feeds: the upstream and its mirrors.
    pub(super) fn feeds(&self) -> usize {
        1 + self.fallback_upstream.len()
    }

    pub(super) fn pages(&self) -> Url {
        self.youtube_pages.clone()
    }

    /// The settings of the YouTube Data API.
    pub(super) fn data_api(&self) -> Option<data_api::Settings> {
        Some(data_api::Settings {
            api: self.youtube_api.clone(),
            key_file: self.youtube_api_key_file.clone()?,
            quota: self.youtube_api_quota,
        })
    }
}
