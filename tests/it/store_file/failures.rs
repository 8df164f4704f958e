//! What is only a failure: its own place in the file, and for how long.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::UNIX_EPOCH,
};

use plaque::{
    cache_entry::Failure,
    store::{file::FAILURE_SHARE, lifetime::MAX_FAILURE_LIFETIME},
    upstream::UpstreamError,
};

use super::*;

const FAILURES: TableDefinition<&[u8; 25], (u64, u64, &[u8])> = TableDefinition::new("failures");

const MINUTE: Duration = Duration::from_mins(1);

fn failure(pause: Duration) -> FeedEntry {
    let now = clock::now();
    let failure = Failure {
        out_of_budget: false,
        error: UpstreamError::NotFound,
        at: now,
        retry_at: now + pause,
        streak: 3,
    };
    CacheEntry::failed(None, failure)
}

async fn fail(store: &File, number: usize, pause: Duration) {
    store
        .save(feed(number), &failure(pause), Lease::Uncoordinated)
        .await;
}

async fn has_failed(store: &File, number: usize) -> bool {
    let known = store.load(feed(number)).await;
    known.is_some_and(|known| known.failure.is_some())
}

/// How many failures are in the file, and their bytes.
fn in_file(path: &Path) -> (u64, u64) {
    let database = Database::open(path).expect("a database");
    let read = database.begin_read().expect("a transaction");
    let meta = read.open_table(META).expect("a table");
    let bytes = meta.get("failure_bytes").expect("readable").expect("there");
    let failures = read.open_table(FAILURES).expect("a table");
    (failures.len().expect("readable"), bytes.value())
}

#[tokio::test]
async fn a_hundred_thousand_failures_push_no_answer_out_and_the_newest_of_them_stay() {
    const FLOOD: usize = 100_000;
    let path = folder("failures").join("store");
    let store = File::open(&path, MIN_BYTES, LIMIT, Ages::new(UNKNOWN)).expect("a store");
    // Answers take nearly all of their share.
    let answers = usize::try_from(MIN_BYTES / SPACE_FACTOR / 1300).expect("few");
    for number in 0..answers {
        save(&store, number, &text(1000)).await;
        if number % 100 == 0 {
            store.written().await;
        }
    }
    store.written().await;
    for number in answers..answers + FLOOD {
        fail(&store, number, MINUTE).await;
        if number % 100 == 0 {
            store.written().await;
        }
    }
    store.written().await;
    for number in 0..answers {
        assert!(title(&store, number).await.is_some(), "{number} of {answers}");
    }
    assert!(!has_failed(&store, answers).await, "the oldest is still there");
    assert!(
        has_failed(&store, answers + FLOOD - 1).await,
        "the newest is not there"
    );
    store.close(LIMIT).await;
    let (count, bytes) = in_file(&path);
    let limit = MIN_BYTES / SPACE_FACTOR / FAILURE_SHARE;
    assert!(
        bytes <= limit && bytes > limit / 2 && count > 100,
        "{count}, {bytes} of {limit}"
    );
    assert!(fs::metadata(&path).expect("a file").len() <= MIN_BYTES);
}

#[tokio::test]
async fn a_failure_is_stored_for_twice_its_pause_even_across_a_restart() {
    let path = folder("failures-end").join("store");
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let open = || {
        let clock = Arc::clone(&clock);
        let ages = Ages {
            wall: Box::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(SeqCst))),
            unknown: UNKNOWN,
        };
        File::open(&path, MIN_BYTES, LIMIT, ages).expect("a store")
    };
    let store = open();
    fail(&store, 1, MINUTE).await;
    fail(&store, 2, MINUTE * 5).await;
    assert!(has_failed(&store, 1).await, "in the queue");
    store.close(LIMIT).await;

    let store = open();
    clock.fetch_add(118, SeqCst);
    let known = store.load(feed(1)).await.expect("there");
    let failure = known.failure.expect("a failure");
    assert_eq!((failure.error, failure.streak), (UpstreamError::NotFound, 3));
    clock.fetch_add(2, SeqCst);
    assert!(!has_failed(&store, 1).await);
    assert!(has_failed(&store, 2).await);
    clock.fetch_add(MAX_FAILURE_LIFETIME.as_secs(), SeqCst);
    assert!(!has_failed(&store, 2).await);
    store.close(LIMIT).await;
    assert_eq!(in_file(&path).0, 2, "nothing was written since");
    open().close(LIMIT).await;
    assert_eq!(in_file(&path), (0, 0));
}

#[tokio::test]
async fn a_failure_is_beside_the_answer_that_its_saver_did_not_know() {
    let path = folder("failures-beside").join("store");
    let store = open(&path);
    save(&store, 1, "One").await;
    for _ in 0..2 {
        fail(&store, 1, MINUTE).await;
        store.written().await;
        let known = store.load(feed(1)).await.expect("there");
        assert_eq!(known.success.expect("the answer").value.title(), "One");
        assert_eq!(known.failure.expect("the failure").streak, 3);
    }
    save(&store, 1, "Newer").await;
    store.close(LIMIT).await;
    assert_eq!(in_file(&path), (0, 0));
    let store = open(&path);
    assert_eq!(title(&store, 1).await.as_deref(), Some("Newer"));
    assert!(!has_failed(&store, 1).await);
    store.close(LIMIT).await;
}

#[tokio::test]
async fn a_failure_that_an_earlier_version_kept_among_the_answers_moves() {
    let path = folder("failures-earlier").join("store");
    filled(&path).await;
    let mut key = [b'-'; 25];
    key[..24].copy_from_slice(id(3).as_ref());
    let bytes = plaque::store::codec::encode(&failure(MINUTE), clock::now()).expect("something");
    let database = Database::open(&path).expect("a database");
    let write = database.begin_write().expect("a transaction");
    {
        let mut kept = write.open_table(KEPT).expect("a table");
        let saved = kept.get(&key).expect("readable").expect("an entry").value().0;
        kept.insert(&key, (saved, &bytes[..])).expect("written");
    }
    write.commit().expect("written");
    drop(database);

    let store = open(&path);
    assert!(has_failed(&store, 3).await, "it is read");
    fail(&store, 3, MINUTE).await;
    store.close(LIMIT).await;
    assert_eq!(in_file(&path).0, 1);
    let database = Database::open(&path).expect("a database");
    let read = database.begin_read().expect("a transaction");
    let kept = read.open_table(KEPT).expect("a table");
    assert!(kept.get(&key).expect("readable").is_none());
    let by_time = read.open_table(BY_TIME).expect("a table");
    assert_eq!(
        [kept.len(), by_time.len()].map(|len| len.expect("readable")),
        [199, 199]
    );
}
