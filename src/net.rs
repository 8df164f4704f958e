//! Connections: accepting them, TLS, which one is evicted at the limit on their number, and the ports for HTTP/1.1.

pub(crate) mod accept;
pub(crate) mod connection_slots;
pub(crate) mod http1;
pub mod tls;
