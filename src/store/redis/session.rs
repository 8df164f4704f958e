//! Sessions with Redis: connecting, probing and reconnecting, and running scripts. Without a session, scripts fail at once (a circuit
//! breaker).

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    address::Connection,
    scripts::{self, Keys, Source},
    subscription::Subscription,
};

/// Longer than an operation: resolving names, TLS and subscribing take more round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Later probes may take longer than an operation, since nobody waits for them.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval of probes. They also detect that messages no longer arrive.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The first pause between attempts to connect; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Hardly any load for Redis, and a short outage for plaque.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Why a script brought no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// It was not sent: there is no session.
    Skipped,
    /// It was sent, and failed or timed out.
    Failed,
}

/// Owns the current session. [`Sessions::maintain`] is the task that connects again when one has ended; a failed or late reply to any
/// script ends it.
pub(super) struct Sessions {
    settings: Settings,
    subscription: Arc<Subscription>,
    update_channel: String,
    /// The channel that only this replica subscribes to, for its probes.
    probe_channel: String,
    session: watch::Sender<Option<Session>>,
    /// The [`scripts::tag`] of the last failure, whose key is probed next: other nodes of a cluster may work.
    probe_tag: Mutex<String>,
    /// Cancelled when the first attempt to connect is over.
    first_attempt: CancellationToken,
    closing: CancellationToken,
}

/// A connection, from its first successful probe to the first error.
#[derive(Clone)]
pub(super) struct Session {
    connection: Connection,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: CancellationToken,
    reason: OnceLock<String>,
    /// The message of this replica's own probe has arrived.
    probe_received: Notify,
}

impl State {
    /// Ends the session. Only the first reason is recorded.
    fn end(&self, reason: impl fmt::Display) {
        let _ = self.reason.set(reason.to_string());
        self.ended.cancel();
    }
}

impl Session {
    fn is_active(&self) -> bool {
        !self.state.ended.is_cancelled()
    }

    pub(super) async fn ended(&self) {
        self.state.ended.cancelled().await;
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Source,
        keys: &Keys,
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let mut connection = self.connection.clone();
        match connection.query(&script.by_hash(keys, arguments)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                connection.query(&script.in_full(keys, arguments)).await
            }
            answer => answer,
        }
    }
}

impl Sessions {
    pub(super) fn new(settings: Settings, subscription: Arc<Subscription>) -> Self {
        Self {
            update_channel: settings.prefix.channel("news"),
            probe_channel: settings.prefix.channel(&subscription.instance),
            probe_tag: Mutex::new(subscription.instance.clone()),
            settings,
            subscription,
            session: watch::Sender::new(None),
            first_attempt: CancellationToken::new(),
            closing: CancellationToken::new(),
        }
    }

    /// The channel of all replicas' messages about leases and entries.
    pub(super) fn update_channel(&self) -> &[u8] {
        self.update_channel.as_bytes()
    }

    pub(super) fn session(&self) -> Option<Session> {
        let session = self.session.borrow();
        session.as_ref().filter(|session| session.is_active()).cloned()
    }

    pub(super) async fn connected(&self) {
        let mut session = self.session.subscribe();
        // Fails only if the sender is dropped, and `self` owns it.
        let _ = session
            .wait_for(|session| session.as_ref().is_some_and(Session::is_active))
            .await;
    }

    /// Completes when the first attempt to connect is over, successful or not.
    pub(super) async fn first_attempt(&self) {
        self.first_attempt.cancelled().await;
    }

    pub(super) fn close(&self) {
        self.closing.cancel();
        if let Some(session) = self.session.send_replace(None) {
            session.state.end("plaque stops");
        }
    }

    /// Runs a script on the keys of a [`scripts::tag`], within the time limit of an operation.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Source,
        tag: &str,
        arguments: &[&[u8]],
    ) -> Result<T, CommandError> {
        let session = self.session().ok_or(CommandError::Skipped)?;
        let keys = self.settings.prefix.keys(tag);
        let answer = tokio::select! {
            answer = timeout(self.settings.budget, session.run(script, &keys, arguments)) => answer,
            () = session.ended() => return Err(CommandError::Failed),
        };
        let reason = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_key_error(&error) => {
                tracing::debug!(%error, tag, "the store failed for one key");
                return Err(CommandError::Failed);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => late("answer", self.settings.budget),
        };
        tag.clone_into(&mut self.probe_tag.lock());
        session.state.end(reason);
        Err(CommandError::Failed)
    }

    /// Connects again and again, until [`Self::close`]. Logs when an outage begins and when it ends.
    pub(super) async fn maintain(self: Arc<Self>) {
        self.closing.run_until_cancelled(self.reconnect_loop()).await;
    }

    async fn reconnect_loop(&self) {
        let (mut pause, mut reported) = (FIRST_PAUSE, false);
        let store = &self.settings.address;
        loop {
            let reason = match self.connect().await {
                Ok(session) => {
                    if reported {
                        tracing::info!(%store, "the store is back");
                        reported = false;
                    }
                    let began = Instant::now();
                    let reason = self.hold(session).await;
                    if began.elapsed() >= MAX_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    reason
                }
                Err(reason) => reason,
            };
            self.first_attempt.cancel();
            if self.closing.is_cancelled() {
                return;
            }
            if !reported {
                tracing::warn!(%store, error = reason, "the store is in trouble: plaque goes on without it");
                reported = true;
            }
            // Jitter: not all replicas at once.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Session, String> {
        let state = Arc::<State>::default();
        let receive = {
            let (state, subscription) = (Arc::clone(&state), Arc::clone(&self.subscription));
            let (update_channel, probe_channel) = (self.update_channel.clone(), self.probe_channel.clone());
            move |push: PushInfo| {
                match (push.kind, push.data.as_slice()) {
                    (PushKind::Disconnection, _) => state.end("the connection broke"),
                    (PushKind::Message, [Value::BulkString(channel), Value::BulkString(message)]) => {
                        if *channel == update_channel.as_bytes() {
                            subscription.receive(message);
                        } else if *channel == probe_channel.as_bytes() {
                            state.probe_received.notify_one();
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
        };
        let connecting = async {
            let authorities = self.settings.authorities.clone();
            let mut connection = self.settings.address.connect(authorities, receive).await?;
            connection
                .subscribe(&[self.update_channel.clone(), self.probe_channel.clone()])
                .await?;
            Ok::<_, RedisError>(connection)
        };
        let connection = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| late("connection", CONNECT_TIMEOUT))?
            .map_err(|error| error.to_string())?;
        let session = Session { connection, state };
        // The limit is an operation's: if Redis is slower than that, the next operation would end the session again.
        self.probe(&session, self.settings.budget).await?;
        Ok(session)
    }

    /// Makes a session available and probes it until it ends. Returns why it has ended.
    async fn hold(&self, session: Session) -> String {
        self.session.send_replace(Some(session.clone()));
        self.first_attempt.cancel();
        // Not earlier: a load that this triggers has to find the session.
        self.subscription.connected();
        while session
            .state
            .ended
            .run_until_cancelled(sleep(PROBE_INTERVAL))
            .await
            .is_some()
        {
            if let Err(reason) = self.probe(&session, PROBE_TIMEOUT).await {
                session.state.end(reason);
            }
        }
        self.session.send_replace(None);
        session.state.reason.get().cloned().unwrap_or_default()
    }

    /// Checks, within `limit`, that Redis accepts writes and that its messages arrive.
    async fn probe(&self, session: &Session, limit: Duration) -> Result<(), String> {
        let keys = self.settings.prefix.keys(&self.probe_tag.lock());
        let reply = async {
            let () = session
                .run(&scripts::PROBE, &keys, &[self.probe_channel.as_bytes()])
                .await?;
            session.state.probe_received.notified().await;
            Ok::<_, RedisError>(())
        };
        let reply = tokio::select! {
            reply = timeout(limit, reply) => reply,
            () = session.ended() => return Err(session.state.reason.get().cloned().unwrap_or_default()),
        };
        reply
            .map_err(|_| late("answer", limit))?
            .map_err(|error| error.to_string())
    }
}

fn late(what: &str, limit: Duration) -> String {
    format!("no {what} within {}", humantime::format_duration(limit))
}

/// Whether an error concerns the value of one key and not Redis as a whole. Other failures of scripts would fail a probe, too.
fn is_key_error(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Parse
    ) && !error.is_io_error()
        || error.code() == Some("WRONGTYPE")
}
