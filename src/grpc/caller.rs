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
mod tests;
