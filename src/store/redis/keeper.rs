//! Keeps a lease while a lookup goes on.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{link::Link, scripts};

/// A lease, and who is told of its end.
pub(super) struct Keeper {
    pub(super) link: Arc<Link>,
    pub(super) tag: String,
    pub(super) token: u64,
    pub(super) lasts: Duration,
    /// What is said when it is given up.
    pub(super) message: String,
}

impl Keeper {
    /// Renews the lease until what is returned is dropped, and gives it up then. The task is one of `tasks`.
    pub(super) fn start(self, tasks: &TaskTracker) -> DropGuard {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        tasks.spawn(async move {
            let token = self.token.to_string();
            // Three renewals may be lost.
            while ended.run_until_cancelled(sleep(self.lasts / 4)).await.is_some() {
                let lasts = self.lasts.as_millis().to_string();
                let arguments = [token.as_bytes(), lasts.as_bytes()];
                if self.link.run::<i64>(&scripts::RENEW, &self.tag, &arguments).await == Ok(0) {
                    // It is another's by now, or nobody's.
                    return;
                }
            }
            let arguments = [token.as_bytes(), self.link.channel(), self.message.as_bytes()];
            // If it fails, the lease ends by itself.
            let _ = self
                .link
                .run::<i64>(&scripts::RELEASE, &self.tag, &arguments)
                .await;
        });
        guard
    }
}
