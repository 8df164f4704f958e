//! The lifecycle of a server, which health checks, readiness and watches follow.

use tokio::sync::watch;

/// A stage of the server's lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Accepts no calls yet: the store is being opened.
    Starting,
    /// Accepts calls.
    Serving,
    /// Still accepts calls, but health checks fail, so that clients go elsewhere.
    Draining,
    /// Accepts no calls; those in progress finish.
    Closing,
}

/// Receives the current stage, and each change of it.
pub type Stages = watch::Receiver<Stage>;
