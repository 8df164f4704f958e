//! Code shared by the servers that plaque is compared with and the load generators.

pub mod client;
pub mod service;

use std::{io, num::NonZeroUsize, thread};

use tokio::runtime::Builder;

/// The API, as generated from plaque's proto.
pub mod proto {
    #![expect(clippy::pedantic, reason = "generated")]
    tonic::include_proto!("plaque.v1");
}

/// The number of cores.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Runs `work` to completion on a current-thread runtime.
///
/// # Errors
///
/// If the event loop cannot be created.
pub fn block_on<F: Future>(work: F) -> io::Result<F::Output> {
    Ok(Builder::new_current_thread().enable_all().build()?.block_on(work))
}
