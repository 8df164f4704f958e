//! Whether channels exist: questions that are asked at about the same time go out as one request, which costs one unit for 50 of them.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ApiError;
use crate::{
    channel_name::ResolvedChannel,
    upstream::{Purpose, UpstreamError},
    video::ChannelId,
};

/// As many IDs does `channels.list` take.
pub(super) const MAX_IDS: usize = 50;

/// How long a question waits for others. A burst of calls is together by then, and a request takes longer.
const WINDOW: Duration = Duration::from_millis(50);

/// Those of the channels that exist.
type Found = Result<Vec<ResolvedChannel>, ApiError>;

/// Asks about up to [`MAX_IDS`] channels, each once. The future is driven to its end by a task.
type AskMany = dyn Fn(Vec<ChannelId>, Purpose) -> BoxFuture<'static, Found> + Send + Sync;

/// Who waits for one channel's answer.
type Waiters = Vec<oneshot::Sender<Result<ResolvedChannel, ApiError>>>;

/// Gathers questions. A clone shares everything.
#[derive(Clone)]
pub(super) struct Batch {
    ask: Arc<AskMany>,
    open: Arc<Mutex<Open>>,
}

/// The questions that have not gone out. Its lock is never held while anything is waited for.
#[derive(Default)]
struct Open {
    /// Fewer than [`MAX_IDS`].
    waiters: HashMap<ChannelId, Waiters>,
    /// Whether a caller waits for any of them.
    is_awaited: bool,
    /// Increases whenever they go out, so that a timer knows its own.
    number: u64,
}

impl Open {
    fn take(&mut self) -> (HashMap<ChannelId, Waiters>, Purpose) {
        self.number += 1;
        let purpose = if mem::take(&mut self.is_awaited) {
            Purpose::Awaited
        } else {
            Purpose::Poll
        };
        (mem::take(&mut self.waiters), purpose)
    }
}

impl Batch {
    pub(super) fn new(
        ask: impl Fn(Vec<ChannelId>, Purpose) -> BoxFuture<'static, Found> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask: Arc::new(ask),
            open: Arc::default(),
        }
    }

    /// The channel, or that it does not exist. This future may be dropped at any time: others get their answers all the same.
    pub(super) async fn find(
        &self,
        channel: ChannelId,
        purpose: Purpose,
    ) -> Result<ResolvedChannel, ApiError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut open = self.open.lock();
            let is_first = open.waiters.is_empty();
            open.waiters.entry(channel).or_default().push(sender);
            open.is_awaited |= purpose == Purpose::Awaited;
            if open.waiters.len() >= MAX_IDS {
                let (waiters, purpose) = open.take();
                // Ends with the request, which has a time limit.
                tokio::spawn(self.clone().send(waiters, purpose));
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
        let (waiters, purpose) = {
            let mut open = self.open.lock();
            if open.number != number {
                return;
            }
            open.take()
        };
        self.send(waiters, purpose).await;
    }

    /// Asks for those channels that somebody waits for still.
    async fn send(self, mut waiters: HashMap<ChannelId, Waiters>, purpose: Purpose) {
        waiters.retain(|_, waiters| waiters.iter().any(|waiter| !waiter.is_closed()));
        if waiters.is_empty() {
            return;
        }
        let found = (self.ask)(waiters.keys().copied().collect(), purpose).await;
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
                // Who has left wants none.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}
