//! plaque over a file store that is closed and opened again.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use plaque::{
    store::{
        Store,
        file::{Ages, File, MIN_BYTES},
    },
    upstream::{Feed, UpstreamError},
};
use redb::{Database, ReadableTable as _, TableDefinition};

use crate::stores::{
    FRESH, Fake, Kind, LONG, Replica, every_store, fails, feed, found, query, saved_before, settings,
    success, summary, ttl,
};

every_store!(InFile);

/// A file in a folder of its own, which ends with this.
struct InFile(PathBuf);

impl InFile {
    fn path(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Changes when the only entry was saved, in microseconds of the wall clock, and what it is. No store may be open.
    fn change(&self, change: impl FnOnce(u64, &[u8]) -> (u64, Vec<u8>)) {
        const KEPT: TableDefinition<&[u8; 25], (u64, &[u8])> = TableDefinition::new("kept");
        let database = Database::open(self.path()).expect("a database");
        let write = database.begin_write().expect("a transaction");
        {
            let mut kept = write.open_table(KEPT).expect("a table");
            let (key, (saved, bytes)) = {
                let (key, entry) = kept.first().expect("readable").expect("the only entry");
                let (saved, bytes) = entry.value();
                (*key.value(), change(saved, bytes))
            };
            kept.insert(&key, (saved, &bytes[..])).expect("written");
        }
        write.commit().expect("written");
    }
}

impl Kind for InFile {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("store-restart-{}-{}", process::id(), NEXT.fetch_add(1, SeqCst));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    async fn open(&self) -> Arc<dyn Store> {
        // A machine may be busy.
        Arc::new(
            File::open(
                &self.path(),
                MIN_BYTES,
                LONG,
                Ages::new(settings().policy.unknown_age()),
            )
            .expect("a store"),
        )
    }

    async fn corrupt(&self, _feed: Feed) {
        self.change(|saved, _| (saved, b"\xff\xff".to_vec()));
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn stored_entries_age_while_plaque_does_not_run() {
    let later = |minutes: i64| async move {
        let file = InFile::new();
        saved_before(&file, feed(), &success(feed(), "kept", FRESH)).await;
        file.change(|saved, bytes| (saved.saturating_add_signed(-minutes * 60_000_000), bytes.to_vec()));
        let upstream = Fake::gated(found);
        let replica = Replica::start(&file, &upstream).await;
        let reply = replica.get(query()).await;
        (summary(&reply), ttl(&reply))
    };
    let (told, ttl) = later(5).await;
    assert_eq!(told, "kept (stale)");
    assert!((-260..=-250).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn stored_entries_from_the_future_are_looked_up_and_are_a_fallback() {
    let failing = Fake::open(fails(UpstreamError::Status(503)));
    for (upstream, expected) in [(Fake::open(found), "lookup 1"), (failing, "kept (stale)")] {
        let file = InFile::new();
        saved_before(&file, feed(), &success(feed(), "kept", FRESH)).await;
        file.change(|saved, bytes| (saved + 300_000_000, bytes.to_vec()));
        let replica = Replica::start(&file, &upstream).await;
        assert_eq!(summary(&replica.get(query()).await), expected);
        assert_eq!(upstream.lookups(), 1);
    }
}

#[tokio::test]
async fn units_that_an_earlier_version_has_counted_are_those_of_the_next_key() {
    const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
    // As that version does it, which knows a day and its units.
    let count = |file: &InFile, day, add| {
        let database = Database::open(file.path()).expect("a database");
        let write = database.begin_write().expect("a transaction");
        let sum = {
            let mut meta = write.open_table(META).expect("a table");
            let total = |of| meta.get(of).expect("readable").map_or(0, |total| total.value());
            let sum = add
                + if total("units_day") == day {
                    total("units")
                } else {
                    0
                };
            meta.insert("units_day", day).expect("written");
            meta.insert("units", sum).expect("written");
            sum
        };
        write.commit().expect("written");
        sum
    };
    let file = InFile::new();
    file.open().await.close(LONG).await;
    assert_eq!(count(&file, 1, 5), 5);
    let store = file.open().await;
    assert_eq!(store.add_units(1, 7, 1).await, Some(6));
    assert_eq!(store.add_units(1, 8, 2).await, Some(2));
    store.close(LONG).await;
    drop(store);
    assert_eq!(count(&file, 1, 10), 18, "of all keys");
    let store = file.open().await;
    assert_eq!(store.add_units(1, 7, 0).await, Some(16));
    assert_eq!(store.add_units(1, 8, 1).await, Some(3));
    store.close(LONG).await;
    drop(store);
    assert_eq!(count(&file, 2, 1), 1, "another day");
    assert_eq!(file.open().await.add_units(2, 8, 0).await, Some(1));
}
