//! The validated settings of a server. Independent of the command line.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method};
use reqwest::Url;
use tower_http::cors::{self, AllowOrigin, CorsLayer};

use crate::{
    grpc, latest, store,
    video::{ChannelId, InvalidChannelId},
    youtube,
};

/// The address of YouTube's feeds.
pub const YOUTUBE: &str = "https://www.youtube.com/feeds/videos.xml";

/// The address of channels' pages.
pub const YOUTUBE_PAGES: &str = "https://www.youtube.com";

/// The address of the YouTube Data API.
pub const YOUTUBE_API: &str = "https://www.googleapis.com/youtube/v3";

/// The default canary: YouTube's own channel, which will exist as long as YouTube.
pub const CANARY: &str = "UCBR8-60-B28hp2BmDPdntcQ";

/// The channel that shows whether a 404 means anything. `None`: no canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary(pub Option<ChannelId>);

/// Parses a channel ID, or `none`.
///
/// # Errors
///
/// If the text is neither.
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
    /// The address of the gRPC port.
    pub listen: SocketAddr,
    /// The source of feeds.
    pub upstream: youtube::Settings,
    /// Freshness of answers, and watches.
    pub latest: latest::Settings,
    /// Limits of calls.
    pub calls: grpc::Limits,
    /// The metadata key that identifies callers, between whom lookups are scheduled fairly. `None`: callers are IP addresses.
    pub caller_header: Option<HeaderName>,
    /// Limits of connections.
    pub connections: Connections,
    /// The most open connections of the port for JSON.
    pub http_connections: NonZeroUsize,
    /// The origins of pages that may read the JSON API. `None`: only its own.
    pub http_origins: Option<Origins>,
    /// Host names of the admin port, without a port, in addition to IP addresses and `localhost`.
    pub admin_names: Vec<String>,
    /// The origins of pages that may call over gRPC-Web. `None`: no gRPC-Web.
    pub grpc_web: Option<Origins>,
    /// The number of serving threads.
    pub workers: NonZeroUsize,
    /// How the server stops.
    pub drain: Drain,
    /// The names and values of settings that the status page shows: without secrets.
    pub shown: Vec<(String, String)>,
}

/// The address of a store.
#[derive(Clone, Debug)]
pub enum StoreAddress {
    /// A file.
    File(PathBuf),
    /// A Redis server or cluster.
    Redis(store::redis::Address),
}

/// Parses the address of a store: `file:PATH`, or that of a Redis server or cluster.
///
/// # Errors
///
/// If the text is neither.
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

/// The origins of pages that may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All origins.
    Any,
    /// These, in addition to the server's own, which needs no permission.
    These(Vec<HeaderValue>),
}

impl Origins {
    /// The CORS policy that lets pages of these origins use `methods`. Any request header is allowed: clients of gRPC-Web and Connect have
    /// their own, and callers add metadata.
    pub(crate) fn allow<const N: usize>(&self, methods: [Method; N]) -> CorsLayer {
        let origins = match self {
            Self::Any => AllowOrigin::any(),
            Self::These(origins) => AllowOrigin::list(origins.iter().cloned()),
        };
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods(methods)
            .allow_headers(cors::Any)
            .max_age(PREFLIGHT_MAX_AGE)
    }
}

/// How long browsers may cache a preflight response.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(1);

/// A text is not the origin of a page.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no origin; expected a scheme, a host without * and perhaps a port, such as https://app.example, or just * for all"
)]
pub struct BadOrigin(String);

/// Parses a comma-separated list of origins, or `*` for all.
///
/// # Errors
///
/// If one of them lacks a scheme or host, or has more than these and a port.
pub fn origins(text: &str) -> Result<Origins, BadOrigin> {
    if text.trim() == "*" {
        return Ok(Origins::Any);
    }
    // Not repeated: what is before an @ can be a password, and a comma in it would split it.
    if text.contains('@') {
        return Err(BadOrigin("what has a user name or a password".into()));
    }
    let origins = text.split(',').map(str::trim);
    let origins = origins.map(|one| origin(one).ok_or_else(|| BadOrigin(format!("{one:?}"))));
    Ok(Origins::These(origins.collect::<Result<_, _>>()?))
}

/// Parses an origin as browsers send it.
fn origin(text: &str) -> Option<HeaderValue> {
    let url: Url = text.parse().ok()?;
    let origin = url.origin().ascii_serialization();
    let is_web = matches!(url.scheme(), "http" | "https");
    // No browser sends a wildcard, and none is expanded here. An origin with anything else does not equal the URL that it came from.
    if !is_web || origin.contains('*') || origin.parse() != Ok(url) {
        return None;
    }
    origin.parse().ok()
}

/// The default of the most open connections of the port for JSON.
pub const HTTP_CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A text is not a host name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host name; expected a name without a port, such as plaque.example")]
pub struct BadHost(String);

/// Parses a host name as in the `Host` header, without a port. A final dot is dropped.
///
/// # Errors
///
/// If it is empty, or has a character other than letters, digits, hyphens, underscores and dots.
pub fn host_name(text: &str) -> Result<String, BadHost> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(may_be) {
        return Err(BadHost(text.into()));
    }
    Ok(name.into())
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// The most open connections.
    pub at_once: NonZeroUsize,
    /// The most concurrent calls of a connection.
    pub streams: u32,
    /// The size of the headers of one call, in bytes: names, values, and 32 for each.
    pub header_bytes: u32,
    /// The time limit of the TLS handshake and the HTTP/2 preface.
    pub preface: Duration,
    /// A connection without calls for this time is closed.
    pub idle: Option<Duration>,
    /// The interval of pings.
    pub keepalive: Option<Duration>,
    /// The time limit for the answer to a ping, and for the peer to read anything that is sent.
    pub pong: Duration,
    /// The maximum age of a connection.
    pub age: Option<Duration>,
    /// The first GOAWAY of a connection accepts further calls. The last one follows when no call has begun for this time, or after ten
    /// times as long; in a drain as soon as there are no calls.
    pub notice: Duration,
    /// After the last GOAWAY a peer may still have sent a call, or be slow to read its last answer. A connection without calls for this
    /// time, or up to twice as long, is closed.
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
            // Many times what a busy client takes from reading a GOAWAY to its next write; Envoy's value is 5 s.
            notice: Duration::from_secs(1),
            linger: Duration::from_secs(5),
        }
    }
}

/// How a server stops.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// How long it continues while it reports that it will stop.
    pub delay: Duration,
    /// How long calls in progress may take after that.
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

/// Parses the address of the feeds, to which `channel_id=…` is appended.
///
/// # Errors
///
/// If it is not an absolute `http` or `https` URL, or has parts that make no sense here.
pub fn upstream_url(text: &str) -> Result<Url, BadUpstream> {
    if text.contains(char::is_whitespace) {
        return Err(BadUpstream("it has a blank".into()));
    }
    let url = Url::parse(text).map_err(|error| BadUpstream(format!("not a URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadUpstream(format!("the scheme is {:?}", url.scheme())));
    }
    if url.fragment().is_some() {
        return Err(BadUpstream("it has a fragment (#…)".into()));
    }
    Ok(url)
}

/// Parses the address of the YouTube Data API.
///
/// # Errors
///
/// Like [`upstream_url`], and if others could read the key on its way.
pub fn youtube_api_url(text: &str) -> Result<Url, String> {
    let url = upstream_url(text).map_err(|error| error.to_string())?;
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if url.scheme() == "https" || is_loopback {
        return Ok(url);
    }
    Err("over http, everybody on the way could read the key; use https, or a server on this machine".into())
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
            "https://user:secret@app.example",
            "http://a.example,https://user:sec,ret@app.example",
            "https://*.example",
            "https://%2A.example",
            "https://app.example:*",
        ] {
            let error = origins(bad).expect_err(bad).to_string();
            assert!(
                error.contains("expected a scheme, a host without *"),
                "{bad}: {error}"
            );
            assert!(!error.contains("sec"), "{bad}: {error}");
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

    #[test]
    fn the_key_is_sent_over_https_or_to_this_machine() {
        for good in [
            YOUTUBE_API,
            "https://api.example/youtube/v3",
            "http://127.0.0.1:8099/youtube/v3",
            "http://127.1.2.3/",
            "http://[::1]:8099/",
            "http://localhost/",
        ] {
            assert!(youtube_api_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://www.googleapis.com/youtube/v3",
            "http://10.0.0.1/",
            "http://localhost.example/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            let error = youtube_api_url(bad).expect_err(bad);
            assert!(error.contains("use https"), "{bad}: {error}");
        }
    }
}
