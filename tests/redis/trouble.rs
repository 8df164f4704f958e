//! Outages: plaque continues without the store, and recovers.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use super::*;

thread_local! {
    /// The log of this thread, on which all tasks of one test run.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// The log lines of an outage and its end.
pub const TROUBLE: &str = "the store is in trouble";
pub const BACK: &str = "the store is back";

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts to log, for all threads: tracing would disable events that no other thread logs.
pub fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_writer(|| Log).init());
}

/// The number of lines that contain this.
pub fn logged(text: &str) -> usize {
    LOG.with_borrow(|log| {
        let log = String::from_utf8_lossy(log);
        log.lines().filter(|line| line.contains(text)).count()
    })
}

/// The last line that contains this.
pub fn line(text: &str) -> String {
    LOG.with_borrow(|log| {
        let log = String::from_utf8_lossy(log);
        let line = log.lines().rfind(|line| line.contains(text));
        line.expect("a line").to_owned()
    })
}

/// Sends operations until one fails and the outage is logged.
pub async fn in_trouble(store: &Redis) {
    let before = logged(BACK);
    soon(async {
        while logged(TROUBLE) == before {
            let _ = store.lease(feed()).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Operations after the first failure return at once, without an error.
pub async fn goes_on_alone(store: &Redis) {
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(loaded(store).await, None);
        assert!(matches!(store.lease(feed()).await, Lease::Uncoordinated));
        store
            .save(feed(), &found("lost", Duration::ZERO), Lease::Uncoordinated)
            .await;
    }
    // If each waited for its time limit, it would take minutes. A machine may be busy.
    assert!(began.elapsed() < SECOND * 2, "{:?}", began.elapsed());
}

/// Everything works again.
pub async fn is_back(store: &Redis) {
    soon(store.up()).await;
    // A lease that could not be released expires.
    let held = soon(stores::acquire_lease(store, feed())).await;
    store
        .save(feed(), &found("back", Duration::ZERO), Lease::Acquired(held))
        .await;
    assert_eq!(loaded(store).await.as_deref(), Some("back"));
}

#[tokio::test]
async fn without_a_server_it_is_alone_from_the_beginning() {
    let mut server = Server::start(&[]);
    server.kill();
    let store = soon(Redis::start(settings(&server.url()))).await;
    goes_on_alone(&store).await;
    server.restart();
    is_back(&store).await;
}

#[tokio::test]
async fn a_server_that_is_gone_and_comes_back_empty() {
    log();
    let mut server = Server::start(&[]);
    let store = store(&server.url()).await;
    store
        .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
        .await;
    let held = acquire_lease(&store).await;
    let other = self::store(&server.url()).await;
    let end = held_elsewhere(&other).await;
    server.kill();
    // Nobody waits for a message that cannot be sent.
    soon(end).await;
    let _ = store.load(feed()).await;
    goes_on_alone(&store).await;
    assert_eq!(logged(TROUBLE), 2);
    server.restart();
    soon(store.up()).await;
    assert_eq!(loaded(&store).await, None);
    let next = acquire_lease(&store).await;
    assert!(next.token > held.token);
    drop(next);
    store.close(SOON).await;
    soon(other.up()).await;
    is_back(&other).await;
    assert_eq!((logged(TROUBLE), logged(BACK)), (2, 2));
}

#[tokio::test]
async fn a_server_that_is_frozen() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    server.signal("STOP");
    let began = Instant::now();
    assert_eq!(loaded(&store).await, None);
    assert!(began.elapsed() < BUDGET * 2, "{:?}", began.elapsed());
    goes_on_alone(&store).await;
    server.signal("CONT");
    is_back(&store).await;
}

#[tokio::test]
async fn a_server_that_is_full() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    store
        .save(feed(), &found("lost", Duration::ZERO), Lease::Uncoordinated)
        .await;
    goes_on_alone(&store).await;
    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    is_back(&store).await;
}

#[tokio::test]
async fn a_server_that_became_a_replica() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let () = server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    store
        .save(feed(), &found("lost", Duration::ZERO), Lease::Uncoordinated)
        .await;
    goes_on_alone(&store).await;
    let () = server.command(&["REPLICAOF", "NO", "ONE"]);
    is_back(&store).await;
}
