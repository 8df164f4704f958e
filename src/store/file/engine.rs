//! The redb database: its tables, transactions and eviction, and the replacement of a file that cannot be read.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use parking_lot::Mutex;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _, WriteTransaction,
    backends::FileBackend,
};

use super::{
    by_time::{BY_TIME, Rows, Stale},
    failures::{self, FAILURE_SHARE, Failure},
    format::{
        BYTES, ENTRIES, ENTRY_OVERHEAD, FORMAT, Key, META, SPACE_FACTOR, UNITS, UNITS_BY_KEY, UNITS_DAY,
        total,
    },
    location::{self, Identity},
    refused::{Refused, catch_panic, run},
};
use crate::store::codec::has_answer;

/// redb's own cache. An entry is read once, since it is in memory afterwards; the system caches the file.
const CACHE_BYTES: usize = 4 << 20;

/// What to write: the newest success of each feed, and its newest failure since.
#[derive(Clone, Default)]
pub(super) struct Changes {
    pub(super) entries: HashMap<Key, Change>,
    pub(super) failures: HashMap<Key, Failure>,
    pub(super) units: Option<Units>,
}

/// The units of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Units {
    day: u32,
    /// Those of all keys, and those that versions without `by_key` have added.
    all: u64,
    /// By fingerprint of the key.
    by_key: BTreeMap<u16, u64>,
}

impl Units {
    /// Adds to those of a key, and returns their sum. Those that belong to no key are counted for this one.
    pub(super) fn add(&mut self, day: u32, key: u16, units: u64) -> u64 {
        if self.day != day {
            *self = Self {
                day,
                ..Self::default()
            };
        }
        self.all = self.all.saturating_add(units);
        let others = self.by_key.iter().filter(|(other, _)| **other != key);
        let sum = self.all.saturating_sub(others.map(|(_, units)| units).sum());
        self.by_key.insert(key, sum);
        sum
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.failures.is_empty() && self.units.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.failures.len()
    }
}

#[derive(Clone)]
pub(super) enum Change {
    Put { saved: u64, bytes: Vec<u8> },
    Remove { saved: u64 },
}

impl Change {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Put { bytes, .. } => bytes.len(),
            Self::Remove { .. } => 0,
        }
    }
}

pub(super) struct Engine {
    database: Database,
    file: Identity,
    /// The limit of the size of successes.
    limit: u64,
    /// Taken out during a write. A failed write does not put it back, which prevents further ones.
    stale: Mutex<Option<Stale>>,
}

pub(super) struct Stored {
    /// When the entry was saved, and its encoding.
    pub(super) entry: Option<(u64, Vec<u8>)>,
    /// A later failure, if it was saved without the success.
    pub(super) failure: Option<Failure>,
}

/// The most bytes to write at once to a file of `bytes`: pages of replaced entries become free only after the next commit.
pub(super) fn batch_limit(bytes: u64) -> usize {
    usize::try_from(bytes / 16).map_or(usize::MAX, |share| share.min(16 << 20))
}

impl Engine {
    /// Opens or creates the file at `path`. One that cannot be read is renamed before.
    pub(super) fn open(path: &Path, bytes: u64, now: u64) -> Result<Self, Refused> {
        let why = match Self::try_open(path, bytes, now) {
            Err(Refused::Unreadable(why)) => why,
            outcome => return outcome,
        };
        if location::is_blank(path) {
            fs::remove_file(path)?;
            tracing::info!(
                "the store {} was never completely created; plaque creates it again",
                path.display()
            );
            return Self::try_open(path, bytes, now);
        }
        let aside = location::set_aside_name(path);
        fs::rename(path, &aside)?;
        tracing::warn!(
            "the store {} cannot be read ({why}): it is renamed to {}, and a new one is created",
            path.display(),
            aside.display()
        );
        Self::try_open(path, bytes, now)
    }

    fn try_open(path: &Path, bytes: u64, now: u64) -> Result<Self, Refused> {
        catch_panic(|| {
            let mut builder = Builder::new();
            // Without this check redb trusts a file that was closed properly, and may panic if something else has changed it.
            builder
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true);
            let (mut file, identity) = location::open(path)?;
            location::expect_magic(&mut file)?;
            let database = builder.create_with_backend(FileBackend::new(file)?)?;
            let mut engine = Self {
                database,
                file: identity,
                limit: bytes / SPACE_FACTOR,
                stale: Mutex::default(),
            };
            let write = engine.database.begin_write().map_err(redb::Error::from)?;
            create_tables(&write)?;
            let mut stale = Stale::default();
            remove_leftovers(&write, &mut stale)?;
            engine.make_room(&write, now, &mut stale)?;
            write.commit().map_err(redb::Error::from)?;
            *engine.stale.lock() = Some(stale);
            if path.metadata()?.len() > bytes {
                engine.database.compact().map_err(redb::Error::from)?;
            }
            Ok(engine)
        })
        .unwrap_or_else(|panic| Err(Refused::Unreadable(panic)))
    }

    /// Whether `path` no longer leads to the open file.
    pub(super) fn is_detached_from(&self, path: &Path) -> bool {
        location::is_gone(path, self.file)
    }

    pub(super) fn entries(&self) -> u64 {
        let count =
            || -> Result<u64, redb::Error> { Ok(self.database.begin_read()?.open_table(ENTRIES)?.len()?) };
        catch_panic(count).map_or(0, Result::unwrap_or_default)
    }

    /// The units of the last day of which some were written.
    pub(super) fn units(&self) -> Units {
        let read = || -> Result<Units, redb::Error> {
            let read = self.database.begin_read()?;
            let meta = read.open_table(META)?;
            let day = total(&meta, UNITS_DAY)?.try_into().unwrap_or(0);
            let rows = read.open_table(UNITS_BY_KEY)?;
            let by_key = rows.range((day, 0)..=(day, u16::MAX))?.map(|row| {
                let (key, units) = row?;
                Ok((key.value().1, units.value()))
            });
            Ok(Units {
                day,
                all: total(&meta, UNITS)?,
                by_key: by_key.collect::<Result<_, redb::Error>>()?,
            })
        };
        catch_panic(read).map_or_else(|_panic| Units::default(), Result::unwrap_or_default)
    }

    pub(super) fn get(&self, key: &Key) -> Result<Stored, String> {
        run(|| {
            let read = self.database.begin_read()?;
            let table = read.open_table(ENTRIES)?;
            let entry = table.get(key)?.map(|entry| {
                let (saved, bytes) = entry.value();
                (saved, bytes.to_vec())
            });
            let failure = failures::get(&read, key)?;
            Ok(Stored { entry, failure })
        })
    }

    /// Commits `changes` at `now` in one transaction, and waits for the disk.
    pub(super) fn apply(&self, changes: &Changes, now: u64) -> Result<(), String> {
        run(|| {
            let mut stale = self.stale.lock().take().ok_or(redb::Error::PreviousIo)?;
            let write = self.database.begin_write()?;
            change(&write, changes, &mut stale)?;
            self.make_room(&write, now, &mut stale)?;
            write.commit()?;
            *self.stale.lock() = Some(stale);
            Ok(())
        })
    }

    fn make_room(&self, write: &WriteTransaction, now: u64, stale: &mut Stale) -> Result<(), redb::Error> {
        let share = self.limit / FAILURE_SHARE;
        let mut meta = write.open_table(META)?;
        let mut failures = failures::Tables::open(write, &meta)?;
        failures.make_room(share, now)?;
        failures.close(&mut meta)?;
        drop(meta);
        make_room(write, self.limit, now, stale)
    }

    pub(super) fn close(self) {
        // What was committed is safe, whether this succeeds or not.
        let _ = self.tidy();
        let _ = catch_panic(|| self.database.close());
    }

    /// Removes stale rows, so that other versions find a correct index.
    fn tidy(&self) -> Result<(), String> {
        let stale = self.stale.lock().take().filter(|stale| !stale.is_empty());
        let Some(mut stale) = stale else {
            return Ok(());
        };
        run(|| {
            let write = self.database.begin_write()?;
            Rows::open(&write, &mut stale)?.remove_stale()?;
            Ok(write.commit()?)
        })
    }
}

/// Creates the tables, or checks that the file has them.
fn create_tables(write: &WriteTransaction) -> Result<(), Refused> {
    let unreadable = |why: String| Err(Refused::Unreadable(why));
    let is_new = write.list_tables().map_err(redb::Error::from)?.next().is_none();
    let mut meta = write.open_table(META).map_err(redb::Error::from)?;
    let format = meta.get("format").map_err(redb::Error::from)?;
    match format.map(|format| format.value()) {
        Some(FORMAT) => {}
        Some(other) => return unreadable(format!("its format is {other}; this plaque's is {FORMAT}")),
        None if is_new => {
            meta.insert("format", FORMAT).map_err(redb::Error::from)?;
        }
        None => return unreadable("it is a database of something else".into()),
    }
    // Tables have to exist to be read.
    write.open_table(ENTRIES).map_err(redb::Error::from)?;
    write.open_table(BY_TIME).map_err(redb::Error::from)?;
    write.open_table(UNITS_BY_KEY).map_err(redb::Error::from)?;
    drop(meta);
    Ok(failures::create_tables(write)?)
}

fn remove_leftovers(write: &WriteTransaction, stale: &mut Stale) -> Result<(), redb::Error> {
    let entries = write.open_table(ENTRIES)?;
    Ok(Rows::open(write, stale)?.remove_leftovers(&entries)?)
}

fn change(write: &WriteTransaction, changes: &Changes, stale: &mut Stale) -> Result<(), redb::Error> {
    let mut meta = write.open_table(META)?;
    let mut entries = write.open_table(ENTRIES)?;
    let mut by_time = Rows::open(write, stale)?;
    let mut failures = failures::Tables::open(write, &meta)?;
    let mut total = total(&meta, BYTES)?;
    // Every entry that has a change. A failure also removes an entry without a success, which an earlier version has put into this table.
    let goes = changes.entries.iter().map(|(key, change)| (key, Some(change)));
    let goes = goes.chain(changes.failures.keys().map(|key| (key, None)));
    for (key, change) in goes {
        let before = entries.get(key)?.and_then(|entry| {
            let (saved, bytes) = entry.value();
            let goes = match change {
                Some(Change::Put { .. }) => true,
                Some(Change::Remove { saved: wanted }) => saved == *wanted,
                None => !has_answer(bytes),
            };
            goes.then_some((saved, cost(bytes)))
        });
        if let Some((saved, cost)) = before {
            entries.remove(key)?;
            by_time.mark_stale(saved, key);
            total = total.saturating_sub(cost);
        }
        match change {
            Some(Change::Put { saved, bytes }) => {
                entries.insert(key, (*saved, &bytes[..]))?;
                by_time.insert(*saved, key)?;
                total += cost(bytes);
                failures.remove(key, |_saved| true)?;
            }
            Some(Change::Remove { saved }) => failures.remove(key, |other| other == *saved)?,
            None => {}
        }
    }
    for (key, failure) in &changes.failures {
        failures.insert(key, failure)?;
    }
    failures.close(&mut meta)?;
    meta.insert(BYTES, total)?;
    if let Some(Units { day, all, by_key }) = &changes.units {
        meta.insert(UNITS_DAY, u64::from(*day))?;
        meta.insert(UNITS, all)?;
        let mut rows = write.open_table(UNITS_BY_KEY)?;
        rows.retain(|(of, _key), _units| of == *day)?;
        for (key, units) in by_key {
            rows.insert((*day, *key), units)?;
        }
    }
    Ok(by_time.tidy(entries.len()?)?)
}

/// Evicts entries until their size is at most `limit`: first those dated later than `now`, whose age is unknown, then the oldest.
fn make_room(write: &WriteTransaction, limit: u64, now: u64, stale: &mut Stale) -> Result<(), redb::Error> {
    let mut meta = write.open_table(META)?;
    let mut entries = write.open_table(ENTRIES)?;
    let mut by_time = Rows::open(write, stale)?;
    let mut total = total(&meta, BYTES)?;
    while total > limit {
        let Some((saved, key)) = by_time.take_next(now)? else {
            break;
        };
        let entry = entries
            .get(&key)?
            .map(|entry| (entry.value().0, cost(entry.value().1)));
        if let Some((_, cost)) = entry.filter(|(current, _)| *current == saved) {
            entries.remove(&key)?;
            total = total.saturating_sub(cost);
        }
    }
    meta.insert(BYTES, total)?;
    Ok(())
}

fn cost(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + ENTRY_OVERHEAD
}
