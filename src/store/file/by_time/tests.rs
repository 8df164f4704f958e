//! Rows that are left for a while, in real files.

use std::{env, fs, path::PathBuf, process};

use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _};

use super::{
    super::{
        engine::{Change, Changes, Engine},
        format::{ENTRIES, ENTRY_OVERHEAD, Key, MIN_BYTES, SPACE_FACTOR},
    },
    BY_TIME, MAX_STALE, MIN_STALE,
};

/// A file of a test's own, which ends with this.
struct InFile(PathBuf);

impl InFile {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("plaque-rows-{name}-{}", process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn open(&self, bytes: u64) -> Engine {
        Engine::open(&self.0, bytes, 0).expect("a file")
    }

    /// How many rows there are, and how many entries. No engine may have the file.
    fn lengths(&self) -> (u64, u64) {
        let database = Database::open(&self.0).expect("a database");
        let read = database.begin_read().expect("a transaction");
        let rows = read.open_table(BY_TIME).expect("a table").len();
        let entries = read.open_table(ENTRIES).expect("a table").len();
        (rows.expect("readable"), entries.expect("readable"))
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// IDs that are no neighbours.
fn key(number: u64) -> Key {
    let mut key = [b'-'; _];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

fn keep(engine: &Engine, saved: u64, numbers: impl IntoIterator<Item = u64>, bytes: usize) {
    let mut changes = Changes::default();
    for number in numbers {
        let bytes = vec![1; bytes];
        changes.entries.insert(key(number), Change::Put { saved, bytes });
    }
    engine.apply(&changes, saved).expect("written");
}

#[test]
fn stale_rows_are_few_and_none_are_left_behind() {
    for (entries, most) in [(20, MIN_STALE), (1_000, 500), (20_000, MAX_STALE)] {
        let file = InFile::new("few");
        let engine = file.open(1 << 30);
        keep(&engine, 1, 0..entries, 10);
        let mut left = 0;
        let mut engine = Some(engine);
        for round in 0..3 {
            let writing = engine.take().expect("one");
            for batch in 0..7 {
                let numbers = (0..entries / 10).map(|number| (number * 7 + batch * 3) % entries);
                keep(&writing, 2 + round * 10 + batch, numbers, 10);
            }
            // As a crash would.
            drop(writing);
            let (rows, kept) = file.lengths();
            assert_eq!(kept, entries);
            assert!(
                (kept..=kept + most).contains(&rows),
                "{rows} rows of {kept} entries"
            );
            left += rows - kept;
            let next = file.open(1 << 30);
            drop(next);
            assert_eq!(file.lengths(), (entries, entries), "none are left after a crash");
            engine = Some(file.open(1 << 30));
        }
        assert!(left > 0, "rows are left for a while");
        let engine = engine.expect("one");
        keep(&engine, 100, 0..10, 10);
        keep(&engine, 101, 0..10, 10);
        // Its row is current once more.
        keep(&engine, 100, 0..5, 10);
        engine.close();
        assert_eq!(file.lengths(), (entries, entries), "nor at an orderly end");
    }
}

#[test]
fn what_was_replaced_is_as_young_as_what_replaced_it() {
    let file = InFile::new("young");
    let fit = MIN_BYTES / SPACE_FACTOR / (1_000 + ENTRY_OVERHEAD);
    let engine = file.open(MIN_BYTES);
    for number in 0..fit {
        keep(&engine, 1 + number, [number], 1_000);
    }
    // The oldest is replaced, the second oldest is not.
    keep(&engine, 10_000, [0], 1_000);
    keep(&engine, 10_001, fit..fit + 10, 1_000);
    let is_there = |number| engine.get(&key(number)).expect("readable").entry.is_some();
    assert!(is_there(0));
    let gone: Vec<_> = (0..fit + 10).filter(|number| !is_there(*number)).collect();
    assert_eq!(gone, (1..=10).collect::<Vec<_>>());
    engine.close();
    let (rows, entries) = file.lengths();
    assert_eq!((rows, entries), (fit, fit));
}
