//! Finds out which channels exist, with one request for up to 50 of those that are wanted at about the same time.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{ApiError, Use};
use crate::{
    upstream::UpstreamError,
    video::{ChannelId, ResolvedChannel},
};

/// The most IDs that `channels.list` takes.
pub(super) const MAX_IDS: usize = 50;

/// How long the first channel of a request waits for others. A request takes longer than that.
const WINDOW: Duration = Duration::from_millis(50);

/// The longest that it also waits for the request before, if that is in progress, so that a flood of lookups sends fewer and larger requests.
const PATIENCE: Duration = Duration::from_millis(1200);

/// After a request for channels most of which were not found, the next waits for so long for each of them, and at most [`PATIENCE`]: they
/// may be made up. Somebody who mistypes one channel does not keep the next one waiting for more than a second.
const PAUSE_PER_CHANNEL: Duration = Duration::from_millis(500);

/// Those of the channels that exist.
type Found = Result<Vec<ResolvedChannel>, ApiError>;

/// Sends a request for up to [`MAX_IDS`] channels, for any of these uses. A task drives the future.
type AskMany = dyn Fn(Vec<ChannelId>, HashSet<Use>) -> BoxFuture<'static, Found> + Send + Sync;

/// The lookups that wait for one channel.
type Waiters = Vec<oneshot::Sender<Result<ResolvedChannel, ApiError>>>;

/// Collects channels for the next request. Clones share everything.
#[derive(Clone)]
pub(super) struct Batch {
    ask: Arc<AskMany>,
    open: Arc<Mutex<Open>>,
    /// Locked while a request is in progress that was not full, and for a while after one that found little.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The next request. Its lock is never held across an await.
#[derive(Default)]
struct Open {
    /// Fewer than [`MAX_IDS`].
    waiters: HashMap<ChannelId, Waiters>,
    /// What they are wanted for.
    uses: HashSet<Use>,
    /// The number of the request, so that a timer knows its own.
    number: u64,
}

impl Open {
    fn take(&mut self) -> (HashMap<ChannelId, Waiters>, HashSet<Use>) {
        self.number += 1;
        (mem::take(&mut self.waiters), mem::take(&mut self.uses))
    }
}

impl Batch {
    pub(super) fn new(
        ask: impl Fn(Vec<ChannelId>, HashSet<Use>) -> BoxFuture<'static, Found> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask: Arc::new(ask),
            open: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Returns the channel if it exists. This future may be dropped at any time, which changes nothing for others.
    pub(super) async fn find(&self, channel: ChannelId, spend_for: Use) -> Result<ResolvedChannel, ApiError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut open = self.open.lock();
            let is_first = open.waiters.is_empty();
            open.waiters.entry(channel).or_default().push(sender);
            open.uses.insert(spend_for);
            if open.waiters.len() >= MAX_IDS {
                let (waiters, uses) = open.take();
                // Ends with the request, which has a time limit.
                tokio::spawn(self.clone().send(waiters, uses));
            } else if is_first {
                // Ends after the window and the request.
                tokio::spawn(self.clone().send_later(open.number));
            }
        }
        // No answer: the request panicked, or the runtime ends.
        receiver
            .await
            .unwrap_or_else(|_| Err(UpstreamError::Panicked.into()))
    }

    async fn send_later(self, number: u64) {
        tokio::time::sleep(WINDOW).await;
        let _turn = tokio::time::timeout(PATIENCE, self.turn.lock()).await;
        let began = Instant::now();
        let (waiters, uses) = {
            let mut open = self.open.lock();
            if open.number != number {
                return;
            }
            open.take()
        };
        let count = waiters.len();
        if !self.clone().send(waiters, uses).await {
            let pause = PAUSE_PER_CHANNEL * u32::try_from(count).unwrap_or(u32::MAX);
            tokio::time::sleep_until(began + pause.min(PATIENCE)).await;
        }
    }

    /// Sends the request, for the channels that are still wanted. Returns whether half of them exist.
    async fn send(self, mut waiters: HashMap<ChannelId, Waiters>, uses: HashSet<Use>) -> bool {
        waiters.retain(|_, waiters| waiters.iter().any(|waiter| !waiter.is_closed()));
        if waiters.is_empty() {
            return true;
        }
        let found = (self.ask)(waiters.keys().copied().collect(), uses).await;
        let found_most = found.as_ref().is_ok_and(|found| found.len() * 2 >= waiters.len());
        for (channel, waiters) in waiters {
            let answer = match &found {
                Ok(found) => found
                    .iter()
                    .find(|found| found.id == channel)
                    .cloned()
                    .ok_or(ApiError::NoSuchChannel),
                Err(error) => Err(error.clone()),
            };
            for waiter in waiters {
                // Fails if the lookup was dropped.
                let _ = waiter.send(answer.clone());
            }
        }
        found_most
    }
}
