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
const CONNECTING: Duration = Duration::from_secs(2);

/// A proof may take longer than an operation, for which somebody waits; not the first one.
const PROOF: Duration = Duration::from_secs(1);

/// Between proofs. Without them, nothing would tell that messages come no more.
const BEAT: Duration = Duration::from_secs(1);

/// Until the next attempt to connect; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Hardly any load for Redis, and soon enough for us.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It was not tried.
    Skipped,
    /// It was.
    Failed,
}

/// The way to Redis. [`Link::keep`] is the task that mends it; whoever runs a command may find that it is broken.
pub(super) struct Link {
    settings: Settings,
    subscription: Arc<Subscription>,
    /// The channel of all replicas' messages.
    messages: String,
    /// The channel of this replica's own proofs.
    own: String,
    session: watch::Sender<Option<Session>>,
    /// Where there was trouble, as [`scripts::tag`] has it: in a cluster, other nodes prove nothing.
    suspect: Mutex<String>,
    /// The first attempt to connect is over.
    tried: CancellationToken,
    ending: CancellationToken,
}

/// A connection, from a proof that it works until the first trouble.
#[derive(Clone)]
pub(super) struct Session {
    connection: Connection,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    over: CancellationToken,
    why: OnceLock<String>,
    /// Our own proof came back.
    proved: Notify,
}

impl State {
    /// The first reason is kept.
    fn end(&self, why: impl fmt::Display) {
        let _ = self.why.set(why.to_string());
        self.over.cancel();
    }
}

impl Session {
    fn is_on(&self) -> bool {
        !self.state.over.is_cancelled()
    }

    /// Ends with the session.
    pub(super) async fn over(&self) {
        self.state.over.cancelled().await;
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

impl Link {
    pub(super) fn new(settings: Settings, subscription: Arc<Subscription>) -> Self {
        Self {
            messages: settings.prefix.channel("news"),
            own: settings.prefix.channel(&subscription.instance),
            suspect: Mutex::new(subscription.instance.clone()),
            settings,
            subscription,
            session: watch::Sender::new(None),
            tried: CancellationToken::new(),
            ending: CancellationToken::new(),
        }
    }

    /// The channel of all replicas' messages about leases and answers.
    pub(super) fn channel(&self) -> &[u8] {
        self.messages.as_bytes()
    }

    /// The connection, if there is one.
    pub(super) fn session(&self) -> Option<Session> {
        let session = self.session.borrow();
        session.as_ref().filter(|session| session.is_on()).cloned()
    }

    /// Ends when there is a connection; not, if there never will be.
    pub(super) async fn up(&self) {
        let mut session = self.session.subscribe();
        // Fails only if the sender is gone, and it is ours.
        let _ = session
            .wait_for(|session| session.as_ref().is_some_and(Session::is_on))
            .await;
    }

    /// Ends when the first attempt to connect is over, however it went.
    pub(super) async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Ends all that is under way, and tries nothing more.
    pub(super) fn end(&self) {
        self.ending.cancel();
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
    ) -> Result<T, Trouble> {
        let session = self.session().ok_or(Trouble::Skipped)?;
        let keys = self.settings.prefix.keys(tag);
        let answer = tokio::select! {
            answer = timeout(self.settings.budget, session.run(script, &keys, arguments)) => answer,
            () = session.over() => return Err(Trouble::Failed),
        };
        let why = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_of_a_key(&error) => {
                tracing::debug!(%error, tag, "the store cannot do this");
                return Err(Trouble::Failed);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!(
                "no answer within {}",
                humantime::format_duration(self.settings.budget)
            ),
        };
        tag.clone_into(&mut self.suspect.lock());
        session.state.end(why);
        Err(Trouble::Failed)
    }

    /// Connects, again and again, until [`Self::end`]. Tells of trouble and of its end, each once.
    pub(super) async fn keep(self: Arc<Self>) {
        self.ending.run_until_cancelled(self.mend()).await;
    }

    async fn mend(&self) {
        let (mut pause, mut told) = (FIRST_PAUSE, false);
        let store = &self.settings.address;
        loop {
            let why = match self.connect().await {
                Ok(session) => {
                    if told {
                        tracing::info!(%store, "the store is back");
                        told = false;
                    }
                    let began = Instant::now();
                    let why = self.use_up(session).await;
                    if began.elapsed() >= LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    why
                }
                Err(why) => why,
            };
            self.tried.cancel();
            if self.ending.is_cancelled() {
                return;
            }
            if !told {
                tracing::warn!(%store, error = why, "the store is in trouble: plaque goes on without it");
                told = true;
            }
            // Not all replicas at once.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A session that has proved itself.
    async fn connect(&self) -> Result<Session, String> {
        let state = Arc::<State>::default();
        let receive = {
            let (state, subscription) = (Arc::clone(&state), Arc::clone(&self.subscription));
            let (messages, own) = (self.messages.clone(), self.own.clone());
            move |push: PushInfo| {
                match (push.kind, push.data.as_slice()) {
                    (PushKind::Disconnection, _) => state.end("the connection broke"),
                    (PushKind::Message, [Value::BulkString(channel), Value::BulkString(message)]) => {
                        if *channel == messages.as_bytes() {
                            subscription.receive(message);
                        } else if *channel == own.as_bytes() {
                            state.proved.notify_one();
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
                .subscribe(&[self.messages.clone(), self.own.clone()])
                .await?;
            Ok::<_, RedisError>(connection)
        };
        let connection = timeout(CONNECTING, connecting)
            .await
            .map_err(|_| format!("no connection within {}", humantime::format_duration(CONNECTING)))?
            .map_err(|error| error.to_string())?;
        let session = Session { connection, state };
        // Were it slower than an operation may be, the next one would end the session again.
        self.prove(&session, self.settings.budget).await?;
        Ok(session)
    }

    /// Lets others use a session until it is over. Why it is, then.
    async fn use_up(&self, session: Session) -> String {
        self.session.send_replace(Some(session.clone()));
        self.tried.cancel();
        // Not before: whoever loads now finds the store in use.
        self.subscription.connected();
        while session
            .state
            .over
            .run_until_cancelled(sleep(BEAT))
            .await
            .is_some()
        {
            if let Err(why) = self.prove(&session, PROOF).await {
                session.state.end(why);
            }
        }
        self.session.send_replace(None);
        session.state.why.get().cloned().unwrap_or_default()
    }

    /// Whether Redis takes writes and messages, and the messages reach us, within `limit`.
    async fn prove(&self, session: &Session, limit: Duration) -> Result<(), String> {
        let keys = self.settings.prefix.keys(&self.suspect.lock());
        let proof = async {
            let () = session
                .run(&scripts::PROBE, &keys, &[self.own.as_bytes()])
                .await?;
            session.state.proved.notified().await;
            Ok::<_, RedisError>(())
        };
        let proof = tokio::select! {
            proof = timeout(limit, proof) => proof,
            () = session.over() => return Err(session.state.why.get().cloned().unwrap_or_default()),
        };
        proof
            .map_err(|_| format!("no answer within {}", humantime::format_duration(limit)))?
            .map_err(|error| error.to_string())
    }
}

/// Whether an error says something about what is under one key, and nothing about Redis. What else is wrong with scripts, a proof
/// finds, too.
fn is_of_a_key(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Parse
    ) && !error.is_io_error()
        || error.code() == Some("WRONGTYPE")
}
