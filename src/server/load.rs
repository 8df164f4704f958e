//! How much is going on: the numbers that limits go by, and that metrics tell.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::config::Config;

/// The server's load.
#[derive(Debug, Default)]
pub(super) struct Load {
    connections: Gauge,
    accepted: Counter,
    closed: Family<[(&'static str, &'static str); 1], Counter>,
    calls: Gauge,
    shed: Counter,
    /// Beside the first of each connection.
    health_watches: AtomicUsize,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// There were as many as may be: it was for a probe, or for none.
    Limit,
    /// The TLS handshake failed.
    Tls,
    /// The handshake or the HTTP/2 preface did not come in time.
    Preface,
    /// No call began for long.
    Idle,
    /// It was as old as a connection may be.
    Age,
    /// The server stopped.
    Drain,
    /// The peer closed it.
    Peer,
    /// A ping was not answered.
    Keepalive,
    /// The peer broke HTTP/2's rules, or the connection broke.
    Error,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Tls => "tls",
            Self::Preface => "preface",
            Self::Idle => "idle",
            Self::Age => "age",
            Self::Drain => "drain",
            Self::Peer => "peer",
            Self::Keepalive => "keepalive",
            Self::Error => "error",
        }
    }
}

/// A connection that is open as long as this is there.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Load {
    /// Makes the numbers known to whoever reads `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_accepted",
            "Connections accepted",
            self.accepted.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections ended, by reason",
            self.closed.clone(),
        );
        registry.register("calls", "Calls in progress, open watches too", self.calls.clone());
        registry.register(
            "calls_shed",
            "Calls refused because as many were in progress as may be",
            self.shed.clone(),
        );
    }

    /// Makes the limits known beside the numbers that they limit.
    pub(super) fn register_limits(config: &Config, registry: &mut Registry) {
        let limits = Family::<[(&str, &str); 1], Gauge>::default();
        registry.register("limit", "What may be at most, as configured", limits.clone());
        for (of, limit) in [
            ("connections", config.connections.at_once.get()),
            ("calls", config.calls.at_once.get()),
            ("streams", config.connections.streams as usize),
            ("header_bytes", config.connections.header_bytes as usize),
            ("message_bytes", config.calls.message_bytes),
            ("waiters", config.latest.max_waiters),
            ("watched", config.latest.max_watched),
            (
                "cache_bytes",
                usize::try_from(config.latest.cache_bytes).unwrap_or(usize::MAX),
            ),
        ] {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            limits.get_or_create(&[("of", of)]).set(limit);
        }
    }

    /// The number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.get().try_into().unwrap_or(0)
    }

    /// The number of calls in progress.
    pub(super) fn calls(&self) -> usize {
        self.calls.get().try_into().unwrap_or(0)
    }

    /// Counts a connection that was accepted. `None` if there are `limit` already.
    pub(super) fn connected(&self, limit: usize) -> Option<Counted> {
        self.accepted.inc();
        let before = self.connections.inc();
        let counted = Counted(self.connections.clone());
        (before < i64::try_from(limit).unwrap_or(i64::MAX)).then_some(counted)
    }

    /// Counts a connection that has ended.
    pub(super) fn closed(&self, reason: End) {
        self.closed.get_or_create(&[("reason", reason.name())]).inc();
    }

    /// Counts a call that begins, and says so, unless there are `limit` already.
    pub(super) fn begin_call(&self, limit: usize) -> bool {
        let before = self.calls.inc();
        let begins = before < i64::try_from(limit).unwrap_or(i64::MAX);
        if !begins {
            self.calls.dec();
            self.shed.inc();
        }
        begins
    }

    /// Counts one more health watch of a connection that has `own` already beside those of others, of `limit` in all. Not if fewer are left.
    pub(super) fn begin_health_watch(&self, own: usize, limit: usize) -> bool {
        let begins = |all: usize| (all + own <= limit && all < limit).then_some(all + 1);
        let begun = self.health_watches.fetch_update(Relaxed, Relaxed, begins);
        if begun.is_err() {
            self.shed.inc();
        }
        begun.is_ok()
    }

    /// Counts such a one that has ended.
    pub(super) fn end_health_watch(&self) {
        self.health_watches.fetch_sub(1, Relaxed);
    }

    /// Counts a call that has ended.
    pub(super) fn end_call(&self) {
        self.calls.dec();
    }
}
