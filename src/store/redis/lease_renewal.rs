//! Renews a lease while a lookup goes on, and gives it up when that ends.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{scripts, session::Sessions};

/// How long a lease that `lasts` so long lasts, and its token is remembered, both in milliseconds: for a lease's time longer, so that the
/// next lease has a greater token, even if another server with a clock behind gives it.
pub(super) fn lease_arguments(lasts: Duration) -> (String, String) {
    (lasts.as_millis().to_string(), (lasts * 2).as_millis().to_string())
}

/// A lease that this replica has.
pub(super) struct LeaseRenewal {
    pub(super) sessions: Arc<Sessions>,
    pub(super) tag: String,
    pub(super) token: u64,
    /// How long it lasts without a renewal.
    pub(super) lasts: Duration,
    /// What is published when it is given up.
    pub(super) message: String,
}

impl LeaseRenewal {
    /// Renews the lease until what is returned is dropped, and gives it up then. The task is one of `tasks`.
    pub(super) fn start(self, tasks: &TaskTracker) -> DropGuard {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        tasks.spawn(async move {
            let token = self.token.to_string();
            // Three renewals may be lost.
            while ended.run_until_cancelled(sleep(self.lasts / 4)).await.is_some() {
                let (lasts, remembered) = lease_arguments(self.lasts);
                let arguments = [token.as_bytes(), lasts.as_bytes(), remembered.as_bytes()];
                if self
                    .sessions
                    .run::<i64>(&scripts::RENEW, &self.tag, &arguments)
                    .await
                    == Ok(0)
                {
                    // It is another's by now, or nobody's.
                    return;
                }
            }
            let arguments = [
                token.as_bytes(),
                self.sessions.update_channel(),
                self.message.as_bytes(),
            ];
            // If it fails, the lease ends by itself.
            let _ = self
                .sessions
                .run::<i64>(&scripts::RELEASE, &self.tag, &arguments)
                .await;
        });
        guard
    }
}
