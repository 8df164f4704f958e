//! The servers that plaque is measured beside, and the programs that load it: what they have in common.

pub mod client;
pub mod service;

use std::{io, num::NonZeroUsize, thread};

use tokio::runtime::Builder;

/// The API, as generated from plaque's proto.
pub mod proto {
    #![expect(clippy::pedantic, reason = "generated")]
    tonic::include_proto!("plaque.v1");
}

/// Cores of this machine.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Runs `work` to its end on a current-thread runtime.
///
/// # Errors
///
/// If the system gives no event loop.
pub fn block_on<F: Future>(work: F) -> io::Result<F::Output> {
    Ok(Builder::new_current_thread().enable_all().build()?.block_on(work))
}
