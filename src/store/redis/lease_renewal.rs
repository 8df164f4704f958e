//! Renews a lease during a lookup, and releases it afterwards.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{scripts, session::Sessions};

/// The arguments of the lease scripts, in milliseconds: how long the lease lasts, and how long its token is remembered. The latter is twice
/// as long, so that the next lease gets a greater token even from another server whose clock is behind.
pub(super) fn lease_arguments(lasts: Duration) -> (String, String) {
    (lasts.as_millis().to_string(), (lasts * 2).as_millis().to_string())
}

pub(super) struct LeaseRenewal {
    pub(super) sessions: Arc<Sessions>,
    pub(super) tag: String,
    pub(super) token: u64,
    /// Its lifetime without a renewal.
    pub(super) lasts: Duration,
    /// The message to publish on release.
    pub(super) message: String,
}

impl LeaseRenewal {
    /// Spawns a task, tracked by `tasks`, that renews the lease until the returned guard is dropped, and then releases it.
    pub(super) fn start(self, tasks: &TaskTracker) -> DropGuard {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        tasks.spawn(async move {
            let token = self.token.to_string();
            // Three renewals in a row may be lost.
            while ended.run_until_cancelled(sleep(self.lasts / 4)).await.is_some() {
                let (lasts, remembered) = lease_arguments(self.lasts);
                let arguments = [token.as_bytes(), lasts.as_bytes(), remembered.as_bytes()];
                if self
                    .sessions
                    .run::<i64>(&scripts::RENEW, &self.tag, &arguments)
                    .await
                    == Ok(0)
                {
                    // The lease has expired, and may be another replica's.
                    return;
                }
            }
            let arguments = [
                token.as_bytes(),
                self.sessions.update_channel(),
                self.message.as_bytes(),
            ];
            // If this fails, the lease expires.
            let _ = self
                .sessions
                .run::<i64>(&scripts::RELEASE, &self.tag, &arguments)
                .await;
        });
        guard
    }
}
