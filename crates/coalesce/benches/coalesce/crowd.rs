//! Crowds of callers: what they wait for, how they are woken, and what they get under faults.

#![expect(
    clippy::disallowed_methods,
    reason = "the main thread has no runtime, and must leave both cores to the tasks"
)]

use std::{
    future::poll_fn,
    mem,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Semaphore, task::JoinHandle, time::timeout};

use super::peers::{Failed, Key, Peer, Value, key};

/// How often the main thread looks whether it may go on: seldom enough to leave both cores to the tasks.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// A lookup that ends when it is told to.
pub struct Gate {
    open: Semaphore,
    /// How many lookups have begun.
    calls: AtomicUsize,
    /// How many callers have begun to wait.
    arrived: AtomicUsize,
    completed: OnceLock<Instant>,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Semaphore::new(0),
            calls: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            completed: OnceLock::new(),
        })
    }

    /// Ends the lookup, and all that begin from now on.
    fn open(&self) {
        self.open.close();
    }

    pub fn arrived(&self) -> usize {
        self.arrived.load(Relaxed)
    }

    pub fn arrive(&self) {
        self.arrived.fetch_add(1, Relaxed);
    }

    /// The lookup.
    pub async fn lookup(self: Arc<Self>) -> Value {
        self.calls.fetch_add(1, Relaxed);
        let _closed = self.open.acquire().await;
        let value = Arc::new(42);
        // At the last moment: what a library does with the value is its own time.
        self.completed.get_or_init(Instant::now);
        value
    }

    /// One that panics.
    async fn panicking_lookup(self: Arc<Self>) -> Value {
        self.lookup().await;
        panic!("as told")
    }

    /// Until `callers` wait, and a lookup is under way for them.
    fn await_callers(&self, callers: usize) {
        while self.arrived() < callers || self.calls.load(Relaxed) == 0 {
            sleep(LOOK_EVERY);
        }
        // The workers go to sleep.
        sleep(4 * LOOK_EVERY);
    }
}

/// How long after the lookup's completion each caller had its value; in order.
pub struct Wave(pub Vec<Duration>);

impl Wave {
    pub fn last(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    pub fn p99(&self) -> Duration {
        let rank = (self.0.len() * 99).div_ceil(100);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Waves of callers, each for a key of its own.
pub struct Waves<P> {
    peer: Arc<P>,
    runtime: Handle,
    keys: u64,
}

impl<P: Peer> Waves<P> {
    pub fn new(runtime: Handle) -> Self {
        Self {
            peer: Arc::new(P::new(&runtime)),
            runtime,
            keys: 0,
        }
    }

    /// `callers` tasks ask for one key; when all of them wait, the lookup completes.
    pub fn next(&mut self, callers: usize) -> Wave {
        self.keys += 1;
        let gate = Gate::new();
        let tasks: Vec<_> = (0..callers).map(|_| self.caller(&gate)).collect();
        gate.await_callers(callers);
        gate.open();
        for task in &tasks {
            while !task.is_finished() {
                sleep(LOOK_EVERY);
            }
        }
        let completed = gate.completed.get().expect("a lookup has completed");
        let woken = tasks.into_iter().map(|task| self.runtime.block_on(task));
        let mut waits: Vec<_> = woken
            .map(|woken| woken.expect("no caller panics").duration_since(*completed))
            .collect();
        waits.sort_unstable();
        Wave(waits)
    }

    fn caller(&self, gate: &Arc<Gate>) -> JoinHandle<Instant> {
        let (peer, gate, key) = (Arc::clone(&self.peer), Arc::clone(gate), key(self.keys));
        self.runtime.spawn(async move {
            let lookup = Arc::clone(&gate);
            let mut ask = pin!(peer.ask(key, move || lookup.lookup()));
            let mut first = true;
            let answer = poll_fn(|context| {
                let answer = ask.as_mut().poll(context);
                // Now it waits.
                if mem::take(&mut first) {
                    gate.arrive();
                }
                answer
            });
            answer.await.expect("the lookup does not fail");
            Instant::now()
        })
    }
}

/// What became of a crowd under a fault.
#[derive(Default)]
pub struct Toll {
    pub calls: usize,
    pub answered: usize,
    pub told: usize,
    pub panicked: usize,
}

/// Four hundred callers, one every 5 ms, each giving up after 40 ms, for a lookup of 100 ms.
pub async fn storm<P: Peer>() -> Toll {
    let peer = Arc::new(P::new(&Handle::current()));
    let calls = Arc::new(AtomicUsize::new(0));
    let mut beat = tokio::time::interval(Duration::from_millis(5));
    let mut callers = Vec::new();
    for _ in 0..400 {
        beat.tick().await;
        let (peer, calls) = (Arc::clone(&peer), Arc::clone(&calls));
        callers.push(tokio::spawn(async move {
            let lookup = move || async move {
                calls.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Arc::new(42)
            };
            let ask = peer.ask(key(0), lookup);
            timeout(Duration::from_millis(40), ask).await.ok()
        }));
    }
    let mut toll = settle(callers).await;
    toll.calls = calls.load(Relaxed);
    toll
}

/// A lookup with ten callers waiting for it, besides the one who began it, panics. So does every other.
pub async fn panics<P: Peer>() -> Toll {
    const CALLERS: usize = 11;
    let peer = Arc::new(P::new(&Handle::current()));
    let gate = Gate::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(panicking_caller(Arc::clone(&peer), key(0), Arc::clone(&gate))))
        .collect();
    let looking = Arc::clone(&gate);
    let looked = tokio::task::spawn_blocking(move || looking.await_callers(CALLERS));
    looked.await.expect("it only looks");
    // These callers arrive just before they ask: whoever was preempted in between has time to.
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    let mut toll = settle(callers).await;
    toll.calls = gate.calls.load(Relaxed);
    toll
}

async fn panicking_caller<P: Peer>(peer: Arc<P>, key: Key, gate: Arc<Gate>) -> Option<Result<Value, Failed>> {
    gate.arrive();
    let answer = timeout(
        Duration::from_secs(5),
        peer.ask(key, move || gate.panicking_lookup()),
    );
    answer.await.ok()
}

async fn settle(callers: Vec<JoinHandle<Option<Result<Value, Failed>>>>) -> Toll {
    let mut toll = Toll::default();
    for caller in callers {
        match caller.await {
            Ok(Some(Ok(_value))) => toll.answered += 1,
            Ok(Some(Err(Failed))) => toll.told += 1,
            // It gave up.
            Ok(None) => {}
            Err(_panic) => toll.panicked += 1,
        }
    }
    toll
}
