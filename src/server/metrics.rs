//! Counters of connections and calls. Limits are enforced with them, and metrics export them.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::config::Config;

/// Counters of the whole server.
#[derive(Debug, Default)]
pub(super) struct ServerMetrics {
    connections: Gauge,
    accepted: Counter,
    closed: Family<[(&'static str, &'static str); 1], Counter>,
    calls: Gauge,
    shed: Counter,
    /// Without the first of each connection.
    health_watches: AtomicUsize,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum CloseReason {
    /// The connection limit was reached: it was open to probes only, or rejected.
    Limit,
    /// The TLS handshake failed.
    Tls,
    /// The TLS handshake or the HTTP/2 preface timed out.
    Preface,
    /// It had no calls for `--idle-timeout`.
    Idle,
    /// It reached `--max-connection-age`.
    Age,
    /// The server shut down.
    Drain,
    /// The peer closed it.
    Peer,
    /// A ping was not answered.
    Keepalive,
    /// The peer violated HTTP/2, or an I/O error occurred.
    Error,
}

impl CloseReason {
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

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionGuard(Gauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ServerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_accepted",
            "Connections accepted",
            self.accepted.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections closed, by reason",
            self.closed.clone(),
        );
        registry.register(
            "calls",
            "Calls in progress, including open watches",
            self.calls.clone(),
        );
        registry.register(
            "calls_shed",
            "Calls rejected because a limit on calls was reached",
            self.shed.clone(),
        );
    }

    /// Registers the configured limits as metrics.
    pub(super) fn register_limits(config: &Config, registry: &mut Registry) {
        let limits = Family::<[(&str, &str); 1], Gauge>::default();
        registry.register("limit", "Configured limits, by what they are of", limits.clone());
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

    pub(super) fn connections(&self) -> usize {
        self.connections.get().try_into().unwrap_or(0)
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.get().try_into().unwrap_or(0)
    }

    /// Counts an accepted connection. `None` if `limit` connections are open already.
    pub(super) fn open_connection(&self, limit: usize) -> Option<ConnectionGuard> {
        self.accepted.inc();
        let before = self.connections.inc();
        let guard = ConnectionGuard(self.connections.clone());
        (before < i64::try_from(limit).unwrap_or(i64::MAX)).then_some(guard)
    }

    pub(super) fn record_close(&self, reason: CloseReason) {
        self.closed.get_or_create(&[("reason", reason.name())]).inc();
    }

    /// Counts a call in progress. Returns false, and counts it as rejected, if there are `limit` already.
    pub(super) fn try_begin_call(&self, limit: usize) -> bool {
        let before = self.calls.inc();
        let admitted = before < i64::try_from(limit).unwrap_or(i64::MAX);
        if !admitted {
            self.calls.dec();
            self.shed.inc();
        }
        admitted
    }

    /// Counts a further health watch of a connection that has `own` already. Returns false if fewer than `own` of `limit` are left.
    pub(super) fn try_begin_health_watch(&self, own: usize, limit: usize) -> bool {
        let increment = |all: usize| (all + own <= limit && all < limit).then_some(all + 1);
        let updated = self.health_watches.fetch_update(Relaxed, Relaxed, increment);
        if updated.is_err() {
            self.shed.inc();
        }
        updated.is_ok()
    }

    pub(super) fn end_health_watch(&self) {
        self.health_watches.fetch_sub(1, Relaxed);
    }

    pub(super) fn end_call(&self) {
        self.calls.dec();
    }
}
