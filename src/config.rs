//! The settings of a server, validated. Knows no command line.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};
use reqwest::Url;

use crate::{
    grpc, latest, store,
    video::{ChannelId, InvalidChannelId},
    youtube,
};

/// Where YouTube serves its feeds.
pub const YOUTUBE: &str = "https://www.youtube.com/feeds/videos.xml";

/// A channel that will exist for as long as YouTube does: its own.
pub const CANARY: &str = "UCBR8-60-B28hp2BmDPdntcQ";

/// The channel that shows whether a 404 means anything, if one is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary(pub Option<ChannelId>);

/// Parses a channel's ID, or `none`.
///
/// # Errors
///
/// If it is neither.
pub fn canary(text: &str) -> Result<Canary, String> {
    if text == "none" {
        return Ok(Canary(None));
    }
    let channel = text.parse().map(|channel| Canary(Some(channel)));
    channel.map_err(|error: InvalidChannelId| format!("{error}; or none for no canary"))
}

/// All settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to accept gRPC.
    pub listen: SocketAddr,
    /// How feeds are looked up.
    pub upstream: youtube::Settings,
    /// How questions are answered.
    pub latest: latest::Settings,
    /// What is kept beyond this process, if anything is.
    pub store: Option<Store>,
    /// What calls may take.
    pub calls: grpc::Limits,
    /// The request metadata that names the caller, between whom lookups are fair. Without it callers are addresses.
    pub caller_header: Option<HeaderName>,
    /// What connections may take.
    pub connections: Connections,
    /// Open connections of the port for JSON.
    pub http_connections: NonZeroUsize,
    /// What the admin port may be called, beside addresses and `localhost`: names without a port.
    pub admin_names: Vec<String>,
    /// Whose pages may call from a browser, by gRPC-Web, if any may.
    pub grpc_web: Option<Origins>,
    /// Serving threads.
    pub workers: NonZeroUsize,
    /// How the server stops.
    pub drain: Drain,
}

/// A second tier.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file of this process's own.
    File {
        /// Where.
        path: PathBuf,
        /// How large it may become.
        bytes: u64,
        /// What an operation may take.
        budget: Duration,
    },
    /// A server that replicas share.
    Redis(store::redis::Settings),
}

/// Where a second tier is.
#[derive(Clone, Debug)]
pub enum StoreAddress {
    /// A file.
    File(PathBuf),
    /// A Redis server or cluster.
    Redis(store::redis::Address),
}

/// Parses where a second tier is: `file:PATH`, or the address of a Redis server or cluster.
///
/// # Errors
///
/// If it is none of these.
pub fn store(text: &str) -> Result<StoreAddress, String> {
    match text.strip_prefix("file:") {
        Some("") => Err("expected a path after file:, such as file:/var/lib/plaque/store".into()),
        Some(path) => Ok(StoreAddress::File(path.into())),
        None => text
            .parse()
            .map(StoreAddress::Redis)
            .map_err(|error: store::redis::InvalidAddress| {
                format!("{error}; or file:PATH for a file of this plaque's own")
            }),
    }
}

/// Pages that may call, by their origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All there are.
    Any,
    /// Those of these; beside the server's own, which need nobody's leave.
    These(Vec<HeaderValue>),
}

/// A text is not the origin of a page.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; expected a scheme, a host and perhaps a port, such as https://app.example, or * for all"
)]
pub struct BadOrigin(String);

/// Parses a list of origins with commas between them, or `*` for all.
///
/// # Errors
///
/// If one of them has no scheme and host, or more than these and a port.
pub fn origins(text: &str) -> Result<Origins, BadOrigin> {
    if text.trim() == "*" {
        return Ok(Origins::Any);
    }
    let origins = text.split(',').map(|one| origin(one.trim()));
    Ok(Origins::These(origins.collect::<Result<_, _>>()?))
}

/// An origin as browsers send it.
fn origin(text: &str) -> Result<HeaderValue, BadOrigin> {
    let bad = || BadOrigin(text.into());
    let url: Url = text.parse().map_err(|_| bad())?;
    let origin = url.origin().ascii_serialization();
    // As an address of its own it is what was given, unless that had more.
    if !matches!(url.scheme(), "http" | "https") || origin.parse() != Ok(url) {
        return Err(bad());
    }
    origin.parse().map_err(|_| bad())
}

/// Open connections of the port for JSON, by default.
pub const HTTP_CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A text is not the name of a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host name; expected a name without a port, such as plaque.example")]
pub struct BadHost(String);

/// Parses the name of a host, as it is in the header `Host` without its port. A dot at its end is not part of it.
///
/// # Errors
///
/// If it has another character than letters, digits, hyphens, underscores and dots, or none.
pub fn host_name(text: &str) -> Result<String, BadHost> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(may_be) {
        return Err(BadHost(text.into()));
    }
    Ok(name.into())
}

/// What connections may take of a server.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Open connections.
    pub at_once: NonZeroUsize,
    /// Calls in progress on one of them.
    pub streams: u32,
    /// The headers of one call, in bytes: names, values, and 32 for each.
    pub header_bytes: u32,
    /// The time to the end of the TLS handshake and of the HTTP/2 preface.
    pub preface: Duration,
    /// A connection ends after so long without a call.
    pub idle: Option<Duration>,
    /// The peer is pinged so often.
    pub keepalive: Option<Duration>,
    /// How long it has for the answer to a ping, and for taking anything of what is sent.
    pub pong: Duration,
    /// How old one may become.
    pub age: Option<Duration>,
    /// A peer is told to begin no more calls, and some time later which was the last that counts: when none has begun for so long, or
    /// after ten times as long; in a drain once there are no calls.
    pub notice: Duration,
    /// A peer that was told to go may have sent a call before it heard, or be slow to read its last answer. One that stays for so
    /// long without a call in progress, or for up to twice as long, is dead or hostile, and is not waited for.
    pub linger: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            at_once: NonZeroUsize::MIN.saturating_add(9_999),
            streams: 1000,
            header_bytes: 16 << 10,
            preface: Duration::from_secs(10),
            idle: Some(Duration::from_mins(5)),
            keepalive: Some(Duration::from_mins(1)),
            pong: Duration::from_secs(20),
            age: Some(Duration::from_hours(1)),
            // Many times what a busy client takes between its read of a GOAWAY and its next write; Envoy's is 5 s.
            notice: Duration::from_secs(1),
            linger: Duration::from_secs(5),
        }
    }
}

/// How a server stops.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// For how long it goes on, and says that it will stop.
    pub delay: Duration,
    /// How long calls in progress may go on after that.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(30),
        }
    }
}

/// A text is not the address of a feed server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected an http or https address such as {YOUTUBE}")]
pub struct BadUpstream(String);

/// Parses the address of the feeds, to which `channel_id=…` will be appended.
///
/// # Errors
///
/// If it is no absolute `http` or `https` URL, or has parts that make no sense here.
pub fn upstream_url(text: &str) -> Result<Url, BadUpstream> {
    let url: Url = text
        .parse()
        .map_err(|error| BadUpstream(format!("not a URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadUpstream(format!("the scheme is {:?}", url.scheme())));
    }
    if url.fragment().is_some() {
        return Err(BadUpstream("it has a fragment (#…)".into()));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        let these = |origins: &[&'static str]| {
            Ok(Origins::These(
                origins.iter().copied().map(HeaderValue::from_static).collect(),
            ))
        };
        assert_eq!(origins("*"), Ok(Origins::Any));
        assert_eq!(
            origins("https://App.Example/, http://localhost:8080,https://a.example:443"),
            these(&[
                "https://app.example",
                "http://localhost:8080",
                "https://a.example"
            ])
        );
        for bad in [
            "",
            "*,https://app.example",
            "app.example",
            "null",
            "https://app.example/page",
            "https://app.example?a",
            "ftp://app.example",
            "https://user@app.example",
        ] {
            let error = origins(bad).expect_err(bad).to_string();
            assert!(error.contains("expected a scheme"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_canary_is_a_channel_or_none() {
        assert_eq!(canary("none"), Ok(Canary(None)));
        let youtube = CANARY.parse().expect("a channel ID");
        assert_eq!(canary(CANARY), Ok(Canary(Some(youtube))));
        for bad in ["", "None", "@YouTube", "UUBR8-60-B28hp2BmDPdntcQ"] {
            let error = canary(bad).expect_err(bad);
            assert!(error.contains("or none"), "{bad}: {error}");
        }
    }

    #[test]
    fn an_upstream_is_an_http_address() {
        for good in [
            YOUTUBE,
            "http://127.0.0.1:8099/feeds/videos.xml",
            "https://mirror.example/f?key=1",
        ] {
            assert_eq!(upstream_url(good).map(String::from), Ok(good.into()));
        }
        for (bad, why) in [
            ("", "not a URL"),
            ("youtube.com", "not a URL"),
            ("localhost:8099/feeds", "scheme is \"localhost\""),
            ("ftp://youtube.com/", "scheme is \"ftp\""),
            ("http://", "not a URL"),
            ("https://youtube.com/#x", "fragment"),
        ] {
            let error = upstream_url(bad).expect_err(bad).to_string();
            assert!(
                error.contains(why) && error.contains("expected an http"),
                "{bad}: {error}"
            );
        }
    }
}
