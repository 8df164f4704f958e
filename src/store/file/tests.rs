//! What waits to be written, without the thread that writes.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::{
    Ages, MIN_BYTES,
    engine::{self, Key},
    operations::Operations,
    writer::Shared,
};

const A: Key = [b'A'; _];
const B: Key = [b'B'; _];

/// A store without the thread that writes.
fn shared() -> Shared {
    Shared {
        path: PathBuf::new(),
        bytes: MIN_BYTES,
        ages: Ages::new(Duration::ZERO),
        engine: RwLock::default(),
        queue: Mutex::default(),
        wake: Condvar::new(),
        turns: watch::Sender::new(false),
        operations: Operations::new("test"),
    }
}

fn bytes(shared: &Shared, key: &Key) -> Option<Vec<u8>> {
    shared.waiting(key).map(|(_, bytes)| bytes)
}

#[test]
fn a_full_queue_takes_only_what_replaces_something() {
    let shared = shared();
    let all = engine::batch_limit(MIN_BYTES);
    assert!(shared.keep(A, vec![1; all]));
    assert!(!shared.keep(B, vec![2; 1]), "there is no room");
    assert!(shared.keep(A, vec![3; all]));
    assert_eq!(
        bytes(&shared, &A),
        Some(vec![3; all]),
        "the newest is what is kept"
    );
    assert_eq!(bytes(&shared, &B), None);
    assert!(shared.keep(A, vec![4; all - 1]));
    assert!(shared.keep(B, vec![5; 1]), "there is room again");
}

#[test]
fn what_is_being_written_is_seen_and_comes_back_if_it_could_not_be() {
    let shared = shared();
    assert!(shared.keep(A, vec![1]) && shared.keep(B, vec![1]));
    let (changes, suspect, last) = shared.turn(Instant::now(), Instant::now());
    assert_eq!((changes.len(), suspect, last), (2, false, false));
    assert_eq!(bytes(&shared, &A), Some(vec![1]));
    assert!(shared.keep(A, vec![2, 2]));
    assert_eq!(bytes(&shared, &A), Some(vec![2, 2]));
    shared.queue.lock().put_back();
    assert_eq!(bytes(&shared, &A), Some(vec![2, 2]), "the newer one stays");
    assert_eq!(bytes(&shared, &B), Some(vec![1]));
    assert_eq!(shared.queue.lock().bytes, 3);
}

#[test]
fn a_removal_replaces_nothing() {
    let shared = shared();
    assert!(shared.keep(A, vec![1]));
    shared.remove(A, 7);
    assert_eq!(bytes(&shared, &A), Some(vec![1]));
}
