//! The HTTP client: user agent, trusted authorities, proxy and IP version.

use std::{fmt, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Certificate, Client, Url, redirect};

use super::Settings;
use crate::cause::innermost;

/// The default `User-Agent`, by which operators of the upstream can identify plaque.
pub const USER_AGENT: &str = concat!("plaque/", env!("CARGO_PKG_VERSION"));

/// The longest user name and password in SOCKS5, in bytes (RFC 1929).
const SOCKS_CREDENTIAL: usize = 255;

/// A proxy in front of the upstream. Its credentials are sent to nobody else, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

/// A text is not the address of a proxy. It is not repeated in the message, since it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected http, https, socks5 or socks5h://[USER:PASSWORD@]HOST[:PORT]")]
pub struct BadProxy(&'static str);

impl FromStr for Proxy {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        let url: Url = text.parse().map_err(|_| BadProxy("it is no URL"))?;
        if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
            return Err(BadProxy("its scheme is another"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(BadProxy("it has no host"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(BadProxy("it has a path, a query or a fragment"));
        }
        let password = url.password().unwrap_or_default();
        if url.username().len().max(password.len()) > SOCKS_CREDENTIAL {
            return Err(BadProxy("its user name or password has more than 255 bytes"));
        }
        Ok(Self(url))
    }
}

/// Omits credentials.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )
    }
}

impl Proxy {
    /// Its address.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }
}

/// The IP version of connections, to the proxy if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    /// Whichever connects first (RFC 8305).
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl IpVersion {
    /// Whether `url` can be reached: not if its host is an address of the other version.
    #[must_use]
    pub fn reaches(self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        match (self, address) {
            (Self::V4, Ok(IpAddr::V6(_))) | (Self::V6, Ok(IpAddr::V4(_))) => false,
            (_, Ok(_) | Err(_)) => true,
        }
    }

    /// The address to bind to, which rules out the other version.
    fn local_address(self) -> Option<IpAddr> {
        match self {
            Self::Any => None,
            Self::V4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            Self::V6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        }
    }
}

/// Why the HTTP client could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The authorities' certificates are invalid.
    #[error("--upstream-ca: no certificate in PEM format could be read: {}", .0.as_ref().map_or("the file has none".into(), |error| innermost(error).to_string()))]
    Authorities(Option<reqwest::Error>),
    /// The proxy cannot be used.
    #[error("--upstream-proxy: {}", innermost(.0))]
    Proxy(reqwest::Error),
    /// TLS cannot be set up.
    #[error(
        "cannot set up TLS for the upstream (are the system's CA certificates installed?): {}",
        innermost(.0)
    )]
    Tls(reqwest::Error),
}

/// The host of `url`, with the port if it is not the scheme's.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn client(settings: &Settings) -> Result<Client, SetupError> {
    // Fails only if a provider is already installed, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Decompressed in body.rs, within a bound.
    let packed = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
    let mut client = Client::builder()
        .user_agent(settings.user_agent.clone())
        .default_headers(packed)
        // A redirect leads to a consent or login page, never to a feed.
        .redirect(redirect::Policy::none())
        // On an HTTP/2 connection that stays open, an upstream could send without end.
        .http1_only()
        .local_address(settings.ip_version.local_address())
        // Proxies of the environment are meant for other programs.
        .no_proxy();
    let proxy = settings.proxy.as_ref().map(Proxy::url);
    if let Some(url) = proxy {
        let proxy = reqwest::Proxy::all(url.clone()).map_err(SetupError::Proxy)?;
        client = client.proxy(proxy);
    }
    if settings.feeds.scheme() == "http" && proxy.is_none_or(|proxy| proxy.scheme() != "https") {
        // No certificate will be verified; plaque has to start also on a machine without any.
        client = client.tls_certs_only([]);
    }
    if let Some(pem) = &settings.authorities {
        let authorities =
            Certificate::from_pem_bundle(pem).map_err(|error| SetupError::Authorities(Some(error)))?;
        if authorities.is_empty() {
            return Err(SetupError::Authorities(None));
        }
        client = client.tls_certs_merge(authorities);
    }
    client.build().map_err(SetupError::Tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_of_one_of_four_schemes_and_shows_no_password() {
        for good in [
            "http://proxy.example:3128",
            "https://user:secret@proxy.example/",
            "socks5://user:secret@127.0.0.1:1080",
            "socks5h://[::1]",
        ] {
            let proxy: Proxy = good.parse().expect(good);
            let shown = format!("{proxy:?}");
            assert!(!shown.contains("secret") && !shown.contains("user"), "{shown}");
        }
        for bad in [
            "",
            "secret",
            "secret.example:3128",
            "socks4://secret.example",
            "ftp://secret.example",
            "http://",
            "socks5://",
            "socks5:///secret",
            "http://proxy.example/secret",
            "http://proxy.example?secret",
            "http://user:secret@proxy.example:port",
            &format!("socks5://user:{}@proxy.example", "secret".repeat(50)),
        ] {
            let error = bad.parse::<Proxy>().expect_err(bad).to_string();
            assert!(error.contains("expected http, https, socks5"), "{bad}: {error}");
            assert!(!error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn an_address_of_the_other_protocol_is_out_of_reach() {
        for (url, versions) in [
            ("http://127.0.0.1:8080", [true, true, false]),
            ("socks5://127.0.0.1:1080", [true, true, false]),
            ("http://[::1]:8080", [true, false, true]),
            ("http://localhost", [true, true, true]),
        ] {
            let url: Url = url.parse().expect(url);
            let reached = [IpVersion::Any, IpVersion::V4, IpVersion::V6].map(|version| version.reaches(&url));
            assert_eq!(reached, versions, "{url}");
        }
    }
}
