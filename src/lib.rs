//! What did this YouTube channel upload last?
//!
//! One upstream lookup per channel serves everybody who asks at once, over gRPC. Read the modules in the order in which they
//! are listed: each uses only those above it. `ARCHITECTURE.md` has the picture.

mod accept;
#[cfg(test)]
mod captured_log;
mod cause;
pub mod clock;
mod metrics;
mod trace_context;
pub mod video;

pub mod dispatch;
pub mod upstream;
pub mod youtube;

pub mod cache_entry;
pub mod store;

pub mod latest;

pub mod grpc;
pub mod lifecycle;
pub mod proto;

mod api;
pub mod tls;

mod connection_slots;

mod http1;

pub mod admin;
pub mod config;
pub mod server;

pub mod cli;
pub mod telemetry;

pub mod origin;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
