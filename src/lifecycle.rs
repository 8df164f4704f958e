//! Where a server is in its life: what health, readiness and long calls go by.

use tokio::sync::watch;

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Takes no calls yet: the store is being opened.
    Starting,
    /// Takes calls.
    Serving,
    /// Takes calls still, and says to whoever asks that they had better go elsewhere.
    Draining,
    /// Takes no calls; those in progress end.
    Closing,
}

/// Tells of each change of the stage.
pub type Stages = watch::Receiver<Stage>;
