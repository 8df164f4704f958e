//! A store that replicas share: Redis 7 or Valkey, one server or a cluster.
//!
//! Each feed has a hash, and a lease while it is looked up. The fields of the hash: the entry `v` (see [`super::codec`]), its lifetime in
//! milliseconds `k`, the token `f` of the lease under which it was found, and the last token given `n`. A failure whose saver did not have
//! the stored success is kept beside it in `e`, with the age of the success at that time in `a`. The hash expires: with a success after
//! [`Settings::keep_for`], with only a failure after [`super::lifetime::failure_lifetime`], with neither a few seconds after its lease
//! (tokens are times, so they grow even if the last one is forgotten).
//!
//! Every step that has to be atomic is a script beside this file. One connection carries all commands, pipelined, and all messages. Any
//! error of the connection ends it; until another one has passed a probe, all operations return at once with nothing.

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
    FeedEntry, HeldLease, Lease, RemoteUpdate, Store,
    codec::{self, DecodeError, Since},
    lifetime::{NAME_LIFETIME, failure_lifetime},
    metrics::{OperationMetrics, Outcome},
};
use crate::{
    clock,
    upstream::Feed,
    video::{ChannelName, ResolvedChannel},
};

/// Address, time limits and lifetimes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server, or nodes of the cluster.
    pub address: Address,
    /// Prefix of all keys.
    pub prefix: Prefix,
    /// Time limit of one operation.
    pub budget: Duration,
    /// Lifetime of an entry with a success: at least as long as it may be served. Entries with only a failure expire earlier.
    pub keep_for: Duration,
    /// How long a lease lasts without renewal, for example if its holder has died.
    pub lease: Duration,
    /// With `rediss`: PEM certificates of the authorities to trust instead of the system's.
    pub authorities: Option<Vec<u8>>,
}

impl Settings {
    /// Defaults: entries expire after a week, leases after two seconds, operations time out after 250 ms.
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

/// A store in Redis. Dropping it closes the connection.
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
    /// Spawns the task that keeps a connection, and waits for its first attempt, so that the first lookups can already use the store. If
    /// the attempt fails, the task goes on trying.
    pub async fn start(settings: Settings) -> Self {
        // Fails only if a provider is already installed, which serves as well.
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

    /// Completes when the store is connected.
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
    async fn load(&self, feed: Feed) -> Option<FeedEntry> {
        let began = Instant::now();
        let most = codec::MAX_BYTES.to_string();
        let loaded: Result<Option<Stored>, _> = self
            .sessions
            .run(&scripts::LOAD, &feed.tag(), &[most.as_bytes()])
            .await;
        let entry = match loaded {
            Ok(None) => Ok(None),
            Ok(Some(stored)) => decode(&stored, feed).map(Some).map_err(|error| {
                tracing::debug!(%feed, %error, "an entry of the store cannot be decoded");
                CommandError::Failed
            }),
            Err(error) => Err(error),
        };
        let outcome = entry.as_ref().map(|entry| match entry {
            Some(_) => Outcome::Hit,
            None => Outcome::Miss,
        });
        self.observe("load", outcome.map_err(|error| *error), began);
        entry.ok().flatten()
    }

    async fn lease(&self, feed: Feed) -> Lease {
        let (began, tag) = (Instant::now(), feed.tag());
        // Subscribe first: the message may come before the reply.
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

    async fn save(&self, feed: Feed, entry: &FeedEntry, lease: Lease) -> bool {
        let now = clock::now();
        let Some(value) = codec::encode(entry, now) else {
            return true;
        };
        let keep_for =
            failure_lifetime(entry, now).map_or(self.keep_for, |lifetime| lifetime.min(self.keep_for));
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
        let saved = self.sessions.run(&scripts::SAVE, &feed.tag(), &arguments).await;
        // Not earlier: others would find neither a lease nor an entry.
        drop(lease);
        let outcome = saved.map(|newer: bool| if newer { Outcome::Ok } else { Outcome::Miss });
        self.observe("save", outcome, began);
        outcome != Ok(Outcome::Miss)
    }

    async fn add_units(&self, day: u32, key: u16, units: u64) -> Option<u64> {
        let (began, units, key) = (Instant::now(), units.to_string(), format!("{key:04x}"));
        let tag = format!("units/{day}");
        let sum = self
            .sessions
            .run(&scripts::UNITS, &tag, &[units.as_bytes(), key.as_bytes()])
            .await;
        self.observe("units", sum.map(|_: u64| Outcome::Ok), began);
        sum.ok()
    }

    async fn load_name(&self, name: &ChannelName) -> Option<(ResolvedChannel, Duration)> {
        let (began, tag) = (Instant::now(), format!("name/{name}"));
        let loaded: Result<Option<(Vec<u8>, u64)>, _> = self.sessions.run(&scripts::NAME, &tag, &[]).await;
        let outcome = loaded.as_ref().map(|loaded| match loaded {
            Some(_) => Outcome::Hit,
            None => Outcome::Miss,
        });
        self.observe("load_name", outcome.map_err(|error| *error), began);
        let (bytes, left) = loaded.ok()??;
        let channel = codec::decode_name(name, &bytes)?;
        Some((channel, Duration::from_millis(left).min(NAME_LIFETIME)))
    }

    async fn save_name(&self, name: &ChannelName, channel: &ResolvedChannel) {
        let (began, tag) = (Instant::now(), format!("name/{name}"));
        let value = codec::encode_name(name, channel);
        let keep_for = NAME_LIFETIME.as_millis().to_string();
        let arguments = [&value[..], keep_for.as_bytes()];
        let saved = self.sessions.run(&scripts::NAME, &tag, &arguments).await;
        self.observe("save_name", saved.map(|_: Option<()>| Outcome::Ok), began);
    }

    fn observe(&self, operation: &'static str, outcome: Result<Outcome, CommandError>, began: Instant) {
        let outcome = outcome.unwrap_or_else(|error| match error {
            CommandError::Skipped => Outcome::Skipped,
            CommandError::Failed => Outcome::Error,
        });
        self.metrics.observe(operation, outcome, began);
    }
}

/// The reply of `load.lua`: an entry and the milliseconds since it was saved; a failure that was saved after it (or nothing), and the
/// milliseconds since then.
type Stored = (Vec<u8>, u64, Vec<u8>, u64);

fn decode(
    (value, value_since, failure, failure_since): &Stored,
    feed: Feed,
) -> Result<FeedEntry, DecodeError> {
    let now = clock::now();
    let decode =
        |bytes: &[u8], since| codec::decode(bytes, feed, Since::Known(Duration::from_millis(since)), now);
    let entry = decode(value, *value_since)?;
    Ok(codec::with_later_failure(
        entry,
        decode(failure, *failure_since).ok(),
    ))
}

/// Waits for the end of another replica's lease, which lasts for another `left` milliseconds unless it is renewed. Also returns when the
/// session ends, since messages may be lost from then on.
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
    fn load(&self, feed: Feed) -> BoxFuture<'_, Option<FeedEntry>> {
        Box::pin(self.0.load(feed))
    }

    fn lease(&self, feed: Feed) -> BoxFuture<'_, Lease> {
        Box::pin(self.0.lease(feed))
    }

    fn save<'a>(&'a self, feed: Feed, entry: &'a FeedEntry, lease: Lease) -> BoxFuture<'a, bool> {
        Box::pin(self.0.save(feed, entry, lease))
    }

    fn add_units(&self, day: u32, key: u16, units: u64) -> BoxFuture<'_, Option<u64>> {
        Box::pin(self.0.add_units(day, key, units))
    }

    fn load_name<'a>(&'a self, name: &'a ChannelName) -> BoxFuture<'a, Option<(ResolvedChannel, Duration)>> {
        Box::pin(self.0.load_name(name))
    }

    fn save_name<'a>(&'a self, name: &'a ChannelName, channel: &'a ResolvedChannel) -> BoxFuture<'a, ()> {
        Box::pin(self.0.save_name(name, channel))
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
            // A lease that is not released in time expires.
            let _ = timeout(limit, self.0.renewals.wait()).await;
            self.0.sessions.close();
        })
    }
}
