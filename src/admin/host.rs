//! Protects the admin port from pages of other sites. Such a page can let its own name resolve to this address (DNS rebinding), and the
//! browser then considers the port to be of the page's origin. The name in the request's `Host` gives it away.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, Uri, header, uri::Authority};

/// Whether the `Host` of a request is an IP address, this machine, or one of `names`. True without a `Host`, which browsers always send.
pub(super) fn is_own(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let known = hosts.all(|host| {
        let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        host.is_some_and(|host| is_own_name(host.host(), names))
    });
    known && uri.host().is_none_or(|host| is_own_name(host, names))
}

fn is_own_name(host: &str, names: &[String]) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if v6.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) || host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    // A final dot does not change a name.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // Browsers do not resolve these (RFC 6761).
    host == "localhost"
        || host.ends_with(".localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, hosts: &[&str]) -> bool {
        let uri = uri.parse().expect("an address");
        let headers = hosts
            .iter()
            .map(|host| (header::HOST, host.parse().expect("ASCII")));
        is_own(&uri, &headers.collect(), &["plaque.shop.svc".into()])
    }

    #[test]
    fn addresses_this_machine_and_what_is_configured_are_ours() {
        for host in [
            "127.0.0.1",
            "10.244.0.7:3780",
            "[::1]:3780",
            "[2001:db8::1]",
            "localhost:3780",
            "LocalHost.",
            "plaque.localhost",
            "plaque.shop.svc:3780",
            "Plaque.Shop.SVC.",
        ] {
            assert!(asked("/metrics", &[host]), "{host}");
        }
        assert!(asked("/metrics", &[]), "HTTP/1.0");
    }

    #[test]
    fn any_other_name_is_another_s() {
        for host in [
            "evil.example",
            "evil.example:3780",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "shop.svc",
            "plaque.shop.svc.evil.example",
            "user@127.0.0.1@evil.example",
            "[::1",
            "1.2.3",
            "",
            "..",
        ] {
            assert!(!asked("/metrics", &[host]), "{host:?}");
        }
        assert!(!asked("/metrics", &["127.0.0.1", "evil.example"]));
        assert!(!asked("http://evil.example/metrics", &["127.0.0.1"]));
        assert!(asked("http://127.0.0.1/metrics", &["127.0.0.1"]));
    }
}
