//! The stages of a server, on which health, readiness and long calls depend.

use tokio::sync::watch;

/// A stage of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Accepts no calls yet: the store is being opened.
    Starting,
    /// Accepts calls.
    Serving,
    /// Still accepts calls, but reports that it is not serving, so that clients go elsewhere.
    Draining,
    /// Accepts no calls, and ends those in progress.
    Closing,
}

/// Reports changes of the stage.
pub type Stages = watch::Receiver<Stage>;
