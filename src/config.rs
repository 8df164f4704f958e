//! The settings of a server, validated. Knows no command line.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use reqwest::Url;

use crate::{latest, youtube};

/// Where YouTube serves its feeds.
pub const YOUTUBE: &str = "https://www.youtube.com/feeds/videos.xml";

/// All settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to accept gRPC.
    pub listen: SocketAddr,
    /// How feeds are looked up.
    pub upstream: youtube::Settings,
    /// How questions are answered.
    pub latest: latest::Settings,
    /// Serving threads.
    pub workers: NonZeroUsize,
    /// How long a call may take whose caller allows it longer, or says nothing. Streams are open-ended.
    pub max_deadline: Duration,
    /// How long calls in progress may go on after the server was told to stop.
    pub drain_timeout: Duration,
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
