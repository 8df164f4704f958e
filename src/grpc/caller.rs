//! Identifies callers, between which lookups are shared fairly.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::deadline;
use crate::upstream::Caller;

/// Identifies callers by a header of the request, or else by the peer's address.
#[derive(Debug, Default)]
pub struct Callers {
    header: Option<HeaderName>,
    /// The key of the hashes is random, so that nobody can construct a name or an address that collides with another.
    keys: RandomState,
}

/// The peer of a connection. The default is an unknown one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    address: u64,
    connection: u64,
}

impl Callers {
    /// Identifies callers by `header`, if they send it.
    #[must_use]
    pub fn new(header: Option<HeaderName>) -> Self {
        Self {
            header,
            keys: RandomState::new(),
        }
    }

    /// The peer of a new connection.
    #[must_use]
    pub fn peer(&self, address: Option<IpAddr>) -> Peer {
        Peer {
            address: address.map_or(0, |address| self.keys.hash_one(("address", network(address)))),
            connection: fastrand::u64(..),
        }
    }

    /// The caller of a call with these headers that may take at most `longest`. The deadline counts from now, so call this only when a
    /// lookup is needed, which is when the call has just started.
    pub(super) fn of_call(&self, peer: Peer, headers: &HeaderMap, longest: Duration) -> Caller {
        let requested = deadline::timeout(headers).ok().flatten();
        let deadline = Instant::now().checked_add(requested.unwrap_or(longest).min(longest));
        self.caller(peer, headers, deadline)
    }

    pub(super) fn caller(&self, peer: Peer, headers: &HeaderMap, deadline: Option<Instant>) -> Caller {
        let named = self.header.as_ref().and_then(|header| headers.get(header));
        Caller {
            id: named.map_or(peer.address, |name| self.keys.hash_one(("name", name.as_bytes()))),
            connection: peer.connection,
            deadline,
        }
    }
}

/// The part of an address that a host cannot choose: the first 64 bits of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn callers_are_identified_by_address_or_by_name() {
        let address = |text: &str| Some(text.parse().expect("an address"));
        let callers = Callers::new(Some(HeaderName::from_static("l5d-client-id")));
        let id = |text, pairs: &[_]| {
            callers
                .of_call(callers.peer(address(text)), &headers(pairs), Duration::MAX)
                .id
        };
        assert_eq!(id("192.0.2.1", &[]), id("192.0.2.1", &[("other", "x")]));
        assert_ne!(id("192.0.2.1", &[]), id("192.0.2.2", &[]));
        assert_eq!(id("192.0.2.1", &[]), id("::ffff:192.0.2.1", &[]));
        assert_eq!(id("2001:db8::1", &[]), id("2001:db8::ffff:1:2:3", &[]));
        assert_ne!(id("2001:db8::1", &[]), id("2001:db8:0:1::1", &[]));
        let web = [("l5d-client-id", "web.shop")];
        assert_eq!(id("192.0.2.1", &web), id("192.0.2.2", &web));
        assert_ne!(
            id("192.0.2.1", &web),
            id("192.0.2.1", &[("l5d-client-id", "cron.shop")])
        );
        let unset = Callers::new(None);
        let peer = unset.peer(address("192.0.2.1"));
        let by = |pairs: &[_]| unset.of_call(peer, &headers(pairs), Duration::MAX);
        assert_eq!(by(&web).id, by(&[]).id);
    }

    #[test]
    fn connections_of_a_caller_are_distinguished() {
        let callers = Callers::new(None);
        let [one, other] = [(); 2].map(|()| callers.peer(None));
        let of = |peer| callers.of_call(peer, &HeaderMap::new(), Duration::from_secs(1));
        assert_eq!(
            (of(one).id, of(one).connection),
            (of(other).id, of(one).connection)
        );
        assert_ne!(of(one).connection, of(other).connection);
    }
}
