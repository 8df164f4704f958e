//! How flights fail.

use std::time::Duration;

/// Why a flight ended without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    /// The fetch panicked, or a closure of the builder did while its result was cached.
    #[error("the fetch panicked")]
    Panicked,
    /// The fetch took longer than this, which is the limit of a flight.
    #[error("the fetch took longer than {0:?}")]
    TimedOut(Duration),
    /// The runtime that ran the flight shut down.
    #[error("the fetch was aborted with its runtime")]
    Aborted,
}
