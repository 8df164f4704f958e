//! A store that replicas share: Redis 7 or Valkey, one server or a cluster.
//!
//! Of each feed there is a hash and, while it is looked up, a lease. The hash has the value `v` (see [`super::kept`]), for how
//! many milliseconds it is kept `k`, the token `f` under which it was found, and the last token given `n`; it expires. A failure
//! whose saver did not know the value's answer is beside it in `e`, with the value's age at that time `a`. What has an answer
//! expires after [`Settings::keep_for`]; what is only a failure when it does not matter any more ([`super::lifetime`]); what has
//! only had a lease a few seconds later, for tokens are times and grow by themselves. All that must happen in one step is a
//! script beside this file. One connection carries all commands, without waiting for one another, and all messages. Whatever goes
//! wrong with it ends it; until another has proved itself, all operations end at once, with nothing.

mod address;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lease_renewal;
mod scripts;
mod session;
mod subscription;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

pub use self::{
    address::{Address, InvalidAddress},
    scripts::{InvalidPrefix, Prefix},
};
use self::{
    lease_renewal::{LeaseRenewal, lease_arguments},
    session::{CommandError, Sessions},
    subscription::{Event, Subscription, Waiter},
};
use super::{
    HeldLease, Known, Lease, RemoteUpdate, Store,
    codec::{self, DecodeError, Since},
    lifetime::failure_lifetime,
    metrics::{OperationMetrics, Outcome},
};
use crate::{clock, upstream::Feed};

/// Where the store is, and how long things may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub address: Address,
    /// Beginning of all keys.
    pub prefix: Prefix,
    /// What an operation may take.
    pub budget: Duration,
    /// How long a good answer is kept: not less than it is of use. What is only a failure is kept for a shorter time.
    pub keep_for: Duration,
    /// How long a lease lasts whose holder has died.
    pub lease: Duration,
    /// An authority that is trusted instead of those of the system, for `rediss`: PEM.
    pub authorities: Option<Vec<u8>>,
}

impl Settings {
    /// Answers of a week, leases of two seconds, 250 ms for an operation.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            prefix: Prefix::default(),
            budget: Duration::from_millis(250),
            keep_for: Duration::from_hours(7 * 24),
            lease: Duration::from_secs(2),
            authorities: None,
        }
    }
}

/// The store. Dropped, it ends its connection.
pub struct Redis(Arc<Shared>);

struct Shared {
    sessions: Arc<Sessions>,
    subscription: Arc<Subscription>,
    renewals: TaskTracker,
    metrics: OperationMetrics,
    keep_for: Duration,
    lease: Duration,
}

impl Redis {
    /// Connects, in a task of the runtime that calls, and waits for the first attempt: who asked before that would not find what is
    /// there. If it fails, the task goes on.
    pub async fn start(settings: Settings) -> Self {
        // Fails only if a provider is there already, which is then as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let subscription = Subscription::new();
        let shared = Shared {
            subscription: Arc::clone(&subscription),
            renewals: TaskTracker::new(),
            metrics: OperationMetrics::default(),
            keep_for: settings.keep_for,
            lease: settings.lease,
            sessions: Arc::new(Sessions::new(settings, subscription)),
        };
        tokio::spawn(Arc::clone(&shared.sessions).maintain());
        shared.sessions.first_attempt().await;
        Self(Arc::new(shared))
    }

    /// Ends when the store is in use.
    pub async fn up(&self) {
        self.0.sessions.connected().await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.sessions.close();
    }
}

impl Shared {
    async fn load(&self, feed: Feed) -> Option<Known> {
        let began = Instant::now();
        let most = codec::MAX_BYTES.to_string();
        let loaded: Result<Option<Stored>, _> = self
            .sessions
            .run(&scripts::LOAD, &scripts::tag(feed), &[most.as_bytes()])
            .await;
        let known = match loaded {
            Ok(None) => Ok(None),
            Ok(Some(stored)) => decode(&stored, feed).map(Some).map_err(|error| {
                tracing::debug!(%feed, %error, "what the store has cannot be read");
                CommandError::Failed
            }),
            Err(error) => Err(error),
        };
        let outcome = known.as_ref().map(|known| match known {
            Some(_) => Outcome::Hit,
            None => Outcome::Miss,
        });
        self.observe("load", outcome.map_err(|error| *error), began);
        known.ok().flatten()
    }

    async fn lease(&self, feed: Feed) -> Lease {
        let (began, tag) = (Instant::now(), scripts::tag(feed));
        // Before there can be a message.
        let waiter = self.subscription.wait(feed);
        let (lasts, remembered) = lease_arguments(self.lease);
        let arguments = [lasts.as_bytes(), remembered.as_bytes()];
        let leased: Result<i64, _> = self.sessions.run(&scripts::LEASE, &tag, &arguments).await;
        let leased = leased.map(|answer| u64::try_from(answer).map_err(|_| answer.unsigned_abs()));
        let outcome = leased.map(|answer| answer.map_or(Outcome::Miss, |_| Outcome::Ok));
        self.observe("lease", outcome, began);
        match leased {
            Ok(Ok(token)) => {
                let renewal = LeaseRenewal {
                    sessions: Arc::clone(&self.sessions),
                    message: self.subscription.message(Event::Released, feed),
                    lasts: self.lease,
                    tag,
                    token,
                };
                Lease::Acquired(HeldLease {
                    token,
                    renewal: Box::new(renewal.start(&self.renewals)),
                })
            }
            Ok(Err(left)) => {
                Lease::HeldElsewhere(Box::pin(wait(Arc::clone(&self.sessions), waiter, tag, left)))
            }
            Err(_) => Lease::Uncoordinated,
        }
    }

    async fn save(&self, feed: Feed, known: &Known, lease: Lease) -> bool {
        let now = clock::now();
        let Some(value) = codec::encode(known, now) else {
            return true;
        };
        let keep_for =
            failure_lifetime(known, now).map_or(self.keep_for, |lifetime| lifetime.min(self.keep_for));
        let keep_for = keep_for.as_millis().to_string();
        let began = Instant::now();
        let token = if let Lease::Acquired(held) = &lease {
            held.token
        } else {
            0
        }
        .to_string();
        let message = self.subscription.message(Event::Saved, feed);
        let arguments = [
            token.as_bytes(),
            &value,
            keep_for.as_bytes(),
            self.sessions.update_channel(),
            message.as_bytes(),
        ];
        let saved = self
            .sessions
            .run(&scripts::SAVE, &scripts::tag(feed), &arguments)
            .await;
        // Not before: others would find neither a lease nor an answer.
        drop(lease);
        let outcome = saved.map(|newer: bool| if newer { Outcome::Ok } else { Outcome::Miss });
        self.observe("save", outcome, began);
        outcome != Ok(Outcome::Miss)
    }

    fn observe(&self, operation: &'static str, outcome: Result<Outcome, CommandError>, began: Instant) {
        let outcome = outcome.unwrap_or_else(|error| match error {
            CommandError::Skipped => Outcome::Skipped,
            CommandError::Failed => Outcome::Error,
        });
        self.metrics.observe(operation, outcome, began);
    }
}

/// What `load.lua` returns: a value and the milliseconds since it was saved; a failure that was saved after it, if that is not empty, and
/// the milliseconds since then.
type Stored = (Vec<u8>, u64, Vec<u8>, u64);

fn decode((value, value_since, failure, failure_since): &Stored, feed: Feed) -> Result<Known, DecodeError> {
    let now = clock::now();
    let decode =
        |bytes: &[u8], since| codec::decode(bytes, feed, Since::Known(Duration::from_millis(since)), now);
    let known = decode(value, *value_since)?;
    Ok(codec::with_later_failure(
        known,
        decode(failure, *failure_since).ok(),
    ))
}

/// Waits for the end of another's lease, which lasts for another `left` milliseconds if it is not renewed. Or for trouble: messages
/// may be lost then.
async fn wait(sessions: Arc<Sessions>, mut waiter: Waiter, tag: String, mut left: u64) {
    let Some(session) = sessions.session() else { return };
    loop {
        tokio::select! {
            () = &mut waiter.message => return,
            () = session.ended() => return,
            () = sleep(Duration::from_millis(left)) => {}
        }
        left = match sessions
            .run::<i64>(&scripts::LEFT, &tag, &[])
            .await
            .map(u64::try_from)
        {
            Ok(Ok(left)) if left > 0 => left,
            _ => return,
        };
    }
}

impl Store for Redis {
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<Known>> {
        Box::pin(self.0.load(feed))
    }

    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease> {
        Box::pin(self.0.lease(feed))
    }

    fn save<'a>(&'a self, feed: Feed, known: &'a Known, lease: Lease) -> BoxFuture<'a, bool> {
        Box::pin(self.0.save(feed, known, lease))
    }

    fn remote_updates(&self) -> BoxStream<'static, RemoteUpdate> {
        stream::unfold(self.0.subscription.updates(), |mut updates| async {
            match updates.recv().await {
                Ok(update) => Some((update, updates)),
                Err(RecvError::Lagged(lost)) => Some((RemoteUpdate::Lost(Some(lost)), updates)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    fn register(&self, registry: &mut Registry) {
        let sessions = Arc::clone(&self.0.sessions);
        self.0
            .metrics
            .register(registry, move || sessions.session().is_some());
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.renewals.close();
            // A lease that is not given up in time ends by itself.
            let _ = timeout(limit, self.0.renewals.wait()).await;
            self.0.sessions.close();
        })
    }
}
