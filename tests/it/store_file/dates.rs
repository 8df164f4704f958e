//! Entries that were dated by a wall clock that was wrong.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::UNIX_EPOCH,
};

use super::*;

/// A wall clock that a test sets, in seconds.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, SeqCst);
    }

    fn open(&self, path: &Path) -> File {
        let clock = Arc::clone(&self.0);
        let ages = Ages {
            wall: Box::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(SeqCst))),
            unknown: UNKNOWN,
        };
        File::open(path, MIN_BYTES, LIMIT, ages).expect("a store")
    }
}

#[tokio::test]
async fn entries_from_the_future_have_an_unknown_age_until_the_clock_passes_it() {
    let path = folder("future").join("store");
    let (began, wall) = (Instant::now(), Wall::default());
    let age = async |store: &File| {
        let known = store.load(feed(1)).await.expect("kept");
        known.success.expect("a success").age(clock::now())
    };
    let around = |expected: Duration, age: Duration| {
        assert!(age >= expected && age <= expected + began.elapsed(), "{age:?}");
    };
    wall.set(10_000);
    let store = wall.open(&path);
    save(&store, 1, "One").await;
    around(Duration::ZERO, age(&store).await);
    wall.set(9_999);
    around(UNKNOWN, age(&store).await);
    store.written().await;
    around(UNKNOWN, age(&store).await);
    store.close(LIMIT).await;

    let store = wall.open(&path);
    around(UNKNOWN, age(&store).await);
    wall.set(10_060);
    around(Duration::from_mins(1), age(&store).await);
    store.close(LIMIT).await;
}

#[tokio::test]
async fn entries_from_the_future_are_evicted_first() {
    let path = folder("future-room").join("store");
    let wall = Wall::default();
    let length = 3000;
    let fit = usize::try_from(MIN_BYTES / SPACE_FACTOR).expect("few") / (length + 200);
    let (ahead, honest) = (0..20, 20..fit + 10);
    wall.set(1_000_000);
    let store = wall.open(&path);
    for number in ahead.clone() {
        save(&store, number, &text(length)).await;
    }
    store.written().await;
    for number in honest.clone() {
        // The clock is right again, and runs.
        wall.set(1000 + number as u64);
        save(&store, number, &text(length)).await;
        store.written().await;
    }
    let there = async |numbers: Range<usize>| {
        let mut there = 0;
        for number in numbers {
            there += usize::from(title(&store, number).await.is_some());
        }
        there
    };
    assert_eq!(
        there(honest.clone()).await,
        honest.len(),
        "an honest one has gone"
    );
    assert!(there(ahead.clone()).await < ahead.len(), "there was room for all");
    for number in honest.end..honest.end + 100 {
        wall.set(1000 + number as u64);
        save(&store, number, &text(length)).await;
    }
    store.written().await;
    assert_eq!(there(ahead).await, 0);
    assert_eq!(there(honest.end..honest.end + 100).await, 100);
    store.close(LIMIT).await;
}
