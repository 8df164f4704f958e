//! The write queue, without the writer thread.

use std::{
    env, fs,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::{
    Ages, MIN_BYTES, engine,
    format::Key,
    health::Health,
    writer::{COMMIT_INTERVAL, LARGE_BATCH, MIN_COMMIT_INTERVAL, Shared},
};
use crate::captured_log::CapturedLog;

const SECOND: Duration = Duration::from_secs(1);
const A: Key = [b'A'; _];
const B: Key = [b'B'; _];

/// A store without its writer thread.
fn shared() -> Shared {
    Shared {
        path: PathBuf::new(),
        bytes: MIN_BYTES,
        ages: Ages::new(Duration::ZERO),
        engine: RwLock::default(),
        queue: Mutex::default(),
        wake: Condvar::new(),
        batches: watch::Sender::new(false),
        health: Health::new("test"),
        units: Mutex::default(),
    }
}

fn bytes(shared: &Shared, key: &Key) -> Option<Vec<u8>> {
    shared.waiting(key).entry.map(|(_, bytes)| bytes)
}

#[test]
fn a_full_queue_takes_only_what_replaces_something() {
    let shared = shared();
    let all = engine::batch_limit(MIN_BYTES);
    assert!(shared.enqueue(A, vec![1; all]));
    assert!(!shared.enqueue(B, vec![2; 1]), "there is no room");
    assert!(shared.enqueue(A, vec![3; all]));
    assert_eq!(
        bytes(&shared, &A),
        Some(vec![3; all]),
        "the newest is what is kept"
    );
    assert_eq!(bytes(&shared, &B), None);
    assert!(shared.enqueue(A, vec![4; all - 1]));
    assert!(shared.enqueue(B, vec![5; 1]), "there is room again");
}

#[test]
fn what_is_being_written_is_seen_and_comes_back_if_it_could_not_be() {
    let shared = shared();
    assert!(shared.enqueue(A, vec![1]) && shared.enqueue(B, vec![1]));
    let (changes, reopen, last) = shared.next_batch(None, Instant::now());
    assert_eq!((changes.len(), reopen, last), (2, false, false));
    assert_eq!(bytes(&shared, &A), Some(vec![1]));
    assert!(shared.enqueue(A, vec![2, 2]));
    assert_eq!(bytes(&shared, &A), Some(vec![2, 2]));
    shared.queue.lock().requeue();
    assert_eq!(bytes(&shared, &A), Some(vec![2, 2]), "the newer one stays");
    assert_eq!(bytes(&shared, &B), Some(vec![1]));
    assert_eq!(shared.queue.lock().bytes, 3);
}

#[test]
fn a_removal_replaces_nothing() {
    let shared = shared();
    assert!(shared.enqueue(A, vec![1]));
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
        shared.enqueue_failure(key, vec![1; 20], SECOND)
    });
    let kept = kept.count();
    assert!(kept > 50 && kept < all / 16 / 100, "{kept}");
    assert!(shared.enqueue(A, vec![1; all]), "an answer has all of its room");
}

#[test]
fn a_failure_is_beside_an_answer_until_a_newer_one_comes() {
    let shared = shared();
    let failure = |key| shared.waiting(key).failure.map(|failure| failure.bytes);
    assert!(shared.enqueue(A, vec![1]) && shared.enqueue_failure(A, vec![2], SECOND));
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![1]), Some(vec![2])));
    // Also while it is being written.
    let (changes, ..) = shared.next_batch(None, Instant::now());
    assert_eq!(changes.len(), 2);
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![1]), Some(vec![2])));
    assert!(shared.enqueue(A, vec![3]));
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![3]), None));
    shared.queue.lock().requeue();
    assert_eq!((bytes(&shared, &A), failure(&A)), (Some(vec![3]), None));
    assert_eq!(shared.queue.lock().failure_bytes, 0);
}

/// IDs that are not neighbors.
fn key(number: usize) -> Key {
    let mut key = A;
    key[..8].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    key
}

#[test]
fn commits_are_rare_until_much_waits_or_somebody_does() {
    let now = Instant::now();
    let limit = engine::batch_limit(1 << 30);
    let shared = Shared {
        bytes: 1 << 30,
        ..shared()
    };
    let due = |committed| shared.queue.lock().due(committed, now, limit);
    assert_eq!(due(Some(now)), None, "there is nothing to write");
    assert!(shared.enqueue(key(0), vec![1; 2000]));
    assert_eq!(due(None), Some(now));
    for number in 1..LARGE_BATCH {
        assert_eq!(due(Some(now)), Some(now + COMMIT_INTERVAL), "{number}");
        assert!(shared.enqueue(key(number), vec![1; 2000]));
        // Replacing an entry does not make the batch larger.
        assert!(shared.enqueue(key(0), vec![1; 2000]));
    }
    assert_eq!(due(Some(now)), Some(now + MIN_COMMIT_INTERVAL));
    shared.queue.lock().urgent = true;
    assert_eq!(due(Some(now)), Some(now));
}

#[test]
fn failures_are_written_before_their_part_of_a_small_queue_is_full() {
    let now = Instant::now();
    let shared = shared();
    let due = || {
        shared
            .queue
            .lock()
            .due(Some(now), now, engine::batch_limit(MIN_BYTES))
    };
    let soon = (0..LARGE_BATCH).find(|number| {
        assert!(
            shared.enqueue_failure(key(*number), vec![1; 20], SECOND),
            "{number}"
        );
        due() == Some(now + MIN_COMMIT_INTERVAL)
    });
    assert!(soon.is_some_and(|soon| soon < LARGE_BATCH / 2), "{soon:?}");
}

#[test]
fn a_file_that_is_removed_or_replaced_is_said_once_and_another_begins() {
    let folder = env::temp_dir().join(format!("plaque-lost-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let log = CapturedLog::begin();
    let shared = Shared {
        path: folder.join("store"),
        ..shared()
    };
    let write = |key: Key| {
        assert!(shared.enqueue(key, vec![1]));
        let (changes, ..) = shared.next_batch(None, Instant::now());
        shared.write(&changes).expect("written");
        let engine = shared.engine.read();
        let entries = engine.as_ref().map(engine::Engine::entries);
        (entries.expect("a file"), log.lines())
    };
    assert_eq!(write(A), (1, vec![]));
    assert_eq!(write(B), (2, vec![]));
    fs::remove_file(&shared.path).expect("it is there");
    let (entries, lines) = write(A);
    assert_eq!(entries, 1, "the file is a new one");
    assert!(shared.path.exists());
    assert!(
        lines.len() == 1 && lines[0].contains("removed or replaced"),
        "{lines:?}"
    );
    assert_eq!(write(B), (2, vec![]), "it was said");
    let other = Shared {
        path: folder.join("other"),
        ..self::shared()
    };
    assert!(other.enqueue(key(1), vec![1]));
    other
        .write(&other.next_batch(None, Instant::now()).0)
        .expect("written");
    other.engine.write().take().expect("a file").close();
    fs::rename(&other.path, &shared.path).expect("renamed");
    let (entries, lines) = write(A);
    assert_eq!(
        (entries, lines.len()),
        (2, 1),
        "what is there now goes on: {lines:?}"
    );
    fs::remove_dir_all(&folder).expect("removable");
}
