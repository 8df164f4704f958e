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

const SECOND: Duration = Duration::from_secs(1);
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
    shared.waiting(key).entry.map(|(_, bytes)| bytes)
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

#[test]
fn failures_have_a_part_of_the_queue_and_take_nothing_from_answers() {
    let shared = shared();
    let all = engine::batch_limit(MIN_BYTES);
    let kept = (0..10_000_u32).filter(|number| {
        let mut key = A;
        key[..4].copy_from_slice(&number.to_be_bytes());
        shared.keep_failure(key, vec![1; 20], SECOND)
    });
    let kept = kept.count();
    assert!(kept > 50 && kept < all / 16 / 100, "{kept}");
    assert!(shared.keep(A, vec![1; all]), "an answer has all of its room");
}

#[test]
fn a_failure_is_beside_an_answer_until_a_newer_one_comes() {
    let shared = shared();
    let failure = |key| shared.waiting(key).failure.map(|failure| failure.bytes);
    assert!(shared.keep(A, vec![1]) && shared.keep_failure(A, vec![2], SECOND));
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![1]), Some(vec![2])));
    // While it is written, too.
    let (changes, ..) = shared.turn(Instant::now(), Instant::now());
    assert_eq!(changes.len(), 2);
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![1]), Some(vec![2])));
    assert!(shared.keep(A, vec![3]));
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![3]), None));
    shared.queue.lock().put_back();
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![3]), None));
    assert_eq!(shared.queue.lock().failure_bytes, 0);
}
