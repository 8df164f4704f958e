//! A gRPC service that answers what a YouTube channel uploaded last.
//!
//! Concurrent callers for one channel share one lookup. The modules are listed in order of dependency: each uses only those above it.
//! `ARCHITECTURE.md` has the picture.
//!
//! Public are the parts that the program, the tests and the benchmarks of this repository use. They are not a stable interface.

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
pub mod proto;
pub mod store;

pub mod latest;
pub mod resolver;

pub mod grpc;

pub mod config;
pub mod net;

mod api;

pub mod admin;
pub mod server;

pub mod origin;
pub mod telemetry;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
