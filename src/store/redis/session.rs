//! The connection, and the breaker: who looks after it, and what becomes of commands while there is none.

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

/// What connecting may take: names, TLS and a subscription need more than an operation does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A reply may take longer than an operation, for which somebody waits; not the first one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between proofs. Without them, nothing would tell that update_channel come no more.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Until the next attempt to connect; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Hardly any load for Redis, and soon enough for us.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// It was not first_attempt.
    Skipped,
    /// It was.
    Failed,
}

/// The way to Redis. [`Sessions::keep`] is the task that mends it; whoever runs a command may find that it is broken.
pub(super) struct Sessions {
    settings: Settings,
    subscription: Arc<Subscription>,
    /// The channel of all replicas' update_channel.
    update_channel: String,
    /// The channel of this replica's own proofs.
    probe_channel: String,
    session: watch::Sender<Option<Session>>,
    /// Where there was trouble, as [`scripts::tag`] has it: in a cluster, other nodes probe nothing.
    probe_tag: Mutex<String>,
    /// The first attempt to connect is over.
    first_attempt: CancellationToken,
    closing: CancellationToken,
}

/// A connection, from a reply that it works until the first trouble.
#[derive(Clone)]
pub(super) struct Session {
    connection: Connection,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: CancellationToken,
    reason: OnceLock<String>,
    /// Our own reply came back.
    probe_received: Notify,
}

impl State {
    /// The first reason is kept.
    fn end(&self, reason: impl fmt::Display) {
        let _ = self.reason.set(reason.to_string());
        self.ended.cancel();
    }
}

impl Session {
    fn is_active(&self) -> bool {
        !self.state.ended.is_cancelled()
    }

    /// Ends with the session.
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

    /// The channel of all replicas' update_channel about leases and answers.
    pub(super) fn update_channel(&self) -> &[u8] {
        self.update_channel.as_bytes()
    }

    /// The connection, if there is one.
    pub(super) fn session(&self) -> Option<Session> {
        let session = self.session.borrow();
        session.as_ref().filter(|session| session.is_active()).cloned()
    }

    /// Ends when there is a connection; not, if there never will be.
    pub(super) async fn connected(&self) {
        let mut session = self.session.subscribe();
        // Fails only if the sender is gone, and it is ours.
        let _ = session
            .wait_for(|session| session.as_ref().is_some_and(Session::is_active))
            .await;
    }

    /// Ends when the first attempt to connect is over, however it went.
    pub(super) async fn first_attempt(&self) {
        self.first_attempt.cancelled().await;
    }

    /// Ends all that is under way, and tries nothing more.
    pub(super) fn close(&self) {
        self.closing.cancel();
        if let Some(session) = self.session.send_replace(None) {
            session.state.end("plaque stops");
        }
    }

    /// Runs a script on the keys of what has this [`scripts::tag`], if it can be done in time.
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
                tracing::debug!(%error, tag, "the store cannot do this");
                return Err(CommandError::Failed);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!(
                "no answer within {}",
                humantime::format_duration(self.settings.budget)
            ),
        };
        tag.clone_into(&mut self.probe_tag.lock());
        session.state.end(reason);
        Err(CommandError::Failed)
    }

    /// Connects, again and again, until [`Self::end`]. Tells of trouble and of its end, each once.
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
            // Not all replicas at once.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// A session that has probe_received itself.
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
            .map_err(|_| {
                format!(
                    "no connection within {}",
                    humantime::format_duration(CONNECT_TIMEOUT)
                )
            })?
            .map_err(|error| error.to_string())?;
        let session = Session { connection, state };
        // Were it slower than an operation may be, the next one would end the session again.
        self.probe(&session, self.settings.budget).await?;
        Ok(session)
    }

    /// Lets others use a session until it is over. Why it is, then.
    async fn hold(&self, session: Session) -> String {
        self.session.send_replace(Some(session.clone()));
        self.first_attempt.cancel();
        // Not before: whoever loads now finds the store in use.
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

    /// Whether Redis takes writes and update_channel, and the update_channel reach us, within `limit`.
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
            .map_err(|_| format!("no answer within {}", humantime::format_duration(limit)))?
            .map_err(|error| error.to_string())
    }
}

/// Whether an error says something about what is under one key, and nothing about Redis. What else is wrong with scripts, a reply
/// finds, too.
fn is_key_error(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Parse
    ) && !error.is_io_error()
        || error.code() == Some("WRONGTYPE")
}
