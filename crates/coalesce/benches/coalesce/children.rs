//! What is measured in a process of its own: memory, because what one library has freed would hide what the next one takes, and
//! instructions, because a tool has to watch the whole process.

use std::{env, future::pending, hint::black_box, process::Command, sync::Arc};

use tokio::{runtime, task::yield_now};

use super::{
    crowd::Gate,
    instructions::difference,
    peers::{Bare, Cached, Coalesce, Foyer, Key, Moka, Peer, QuickCache, SpawnedMoka, Uniflight, Value, key},
    resident::resident,
};

/// How many callers wait.
const WAITERS: usize = 100_000;

/// The number of hits in the shorter run.
const HITS: u64 = 20_000;

/// Stands before a child's own arguments.
const CHILD: &str = "child";

/// Does what a child is asked for. `None` if this is no child.
pub fn run() -> Option<String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [child, what, of, count @ ..] = arguments.as_slice() else {
        return None;
    };
    if child != CHILD {
        return None;
    }
    let count = count.first().and_then(|count| count.parse().ok());
    Some(match (what.as_str(), of.as_str()) {
        ("waiters", Bare::NAME) => waiters::<Bare>(),
        ("waiters", ONLY_WAITS) => tasks_that_only_wait(),
        ("waiters", Coalesce::NAME) => waiters::<Coalesce>(),
        ("waiters", Moka::NAME) => waiters::<Moka>(),
        ("waiters", SpawnedMoka::NAME) => waiters::<SpawnedMoka>(),
        ("waiters", Foyer::NAME) => waiters::<Foyer>(),
        ("waiters", QuickCache::NAME) => waiters::<QuickCache>(),
        ("waiters", Uniflight::NAME) => waiters::<Uniflight>(),
        ("hits", Coalesce::NAME) => hits(Coalesce::new, count),
        ("hits", Moka::NAME) => hits(Moka::new, count),
        ("hits", CONFIGURED_ALIKE) => hits(|_runtime| Moka::configured_alike(), count),
        unknown => format!("no such child: {unknown:?}"),
    })
}

/// A waiter of coalesce that was joined by somebody else than the task that waits.
pub const ONLY_WAITS: &str = "coalesce, a task that only waits";

/// moka, configured as coalesce configures it.
pub const CONFIGURED_ALIKE: &str = "moka, weighed and with a time to live";

fn command(what: &str, of: &str) -> Vec<String> {
    let program = env::current_exe().expect("this program has a path");
    let program = program.to_str().expect("the path is text");
    [program, CHILD, what, of].map(str::to_owned).to_vec()
}

/// How many bytes of resident memory a waiter of `peer` takes, its task included.
pub fn bytes_a_waiter(peer: &str) -> String {
    let command = command("waiters", peer);
    let child = Command::new(&command[0]).args(&command[1..]).output();
    String::from_utf8(child.expect("this program runs").stdout).expect("a child writes text")
}

/// The child of [`bytes_a_waiter`]. It leaves its callers to the end of the process.
fn waiters<P: Peer>() -> String {
    let runtime = current_thread();
    runtime.block_on(async {
        // One pointer for each caller, and not two.
        let scene = Arc::new((P::new(runtime.handle()), Gate::new()));
        let before = resident();
        for _ in 0..WAITERS {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move {
                let (peer, gate) = &*scene;
                gate.arrive();
                let gate = Arc::clone(gate);
                peer.ask(key(0), move || gate.lookup()).await
            });
        }
        // One thread: whoever has arrived has also asked by the time that this goes on.
        while scene.1.arrived() < WAITERS {
            yield_now().await;
        }
        let grown = resident() - before;
        (grown / WAITERS).to_string()
    })
}

/// As [`waiters`], but the tasks are the futures of waiters and nothing around them: no key, no cache, no gate.
fn tasks_that_only_wait() -> String {
    let runtime = current_thread();
    runtime.block_on(async {
        let Coalesce(coalescer) = Coalesce::new(runtime.handle());
        let before = resident();
        for _ in 0..WAITERS {
            let waiter = coalescer.join(key(0), |_known| pending());
            tokio::spawn(waiter.expect("that many may wait").outcome());
        }
        // Behind all the others in the queue.
        let last = tokio::spawn(async {});
        last.await.expect("it does nothing");
        let grown = resident() - before;
        (grown / WAITERS).to_string()
    })
}

/// How many instructions a hit of `cache` takes, and which tool counted them; `None` if there is none on this machine.
///
/// Differs by some percent from run to run: hashes are seeded, and moka tidies up by the clock.
pub fn instructions_a_hit(cache: &str) -> Option<(u64, &'static str)> {
    difference(&[CHILD, "hits", cache], HITS)
}

/// The child of [`instructions_a_hit`].
fn hits<P: Cached>(new: impl Fn(&runtime::Handle) -> P, count: Option<u64>) -> String {
    let runtime = current_thread();
    runtime.block_on(async {
        let cache = new(runtime.handle());
        let key = filled(&cache).await;
        for _ in 0..count.unwrap_or(HITS) {
            black_box(cache.cached(black_box(&key)).await);
        }
    });
    String::new()
}

/// Puts one value into `cache`, and returns its key.
pub async fn filled<P: Cached>(cache: &P) -> Key {
    let filled = cache.ask(key(0), || async { Value::new(42) }).await;
    filled.expect("the lookup does not fail");
    key(0)
}

pub fn current_thread() -> runtime::Runtime {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("the machine has room for it")
}
