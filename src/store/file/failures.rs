//! Failures of channels without a success: tables of their own with a bound of their own, so that no success is evicted, however many
//! made-up channels are requested. Versions that do not know these tables ignore them.

use redb::{
    ReadTransaction, ReadableTable, StorageError, Table, TableDefinition, TableError, WriteTransaction,
};

use super::{
    by_time::next_to_evict,
    format::{ENTRY_OVERHEAD, Key, total},
};
use crate::store::lifetime::MAX_FAILURE_LIFETIME;

/// They may take one byte for this many bytes of the limit of successes, in addition to those.
pub const FAILURE_SHARE: u64 = 16;

/// When a failure was saved, when its lifetime ends, both in microseconds since 1970, and its [encoding](crate::store::codec).
const FAILURES: TableDefinition<&Key, (u64, u64, &[u8])> = TableDefinition::new("failures");
/// The same failures by time.
const BY_TIME: TableDefinition<(u64, &Key), ()> = TableDefinition::new("failures_by_time");
const BYTES: &str = "failure_bytes";

/// A stored failure. Dates are in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) saved: u64,
    pub(super) until: u64,
    pub(super) bytes: Vec<u8>,
}

impl Failure {
    /// Its size for the limit. Small entries cost more than their bytes.
    pub(super) fn cost(&self) -> usize {
        usize::try_from(cost(&self.bytes)).unwrap_or(usize::MAX)
    }
}

fn cost(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + ENTRY_OVERHEAD
}

pub(super) fn create_tables(write: &WriteTransaction) -> Result<(), redb::Error> {
    write.open_table(FAILURES)?;
    write.open_table(BY_TIME)?;
    Ok(())
}

pub(super) fn get(read: &ReadTransaction, key: &Key) -> Result<Option<Failure>, redb::Error> {
    let table = match read.open_table(FAILURES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let failure = table.get(key)?;
    Ok(failure.map(|failure| {
        let (saved, until, bytes) = failure.value();
        let bytes = bytes.to_vec();
        Failure { saved, until, bytes }
    }))
}

pub(super) struct Tables<'a> {
    failures: Table<'a, &'static Key, (u64, u64, &'static [u8])>,
    by_time: Table<'a, (u64, &'static Key), ()>,
    bytes: u64,
}

impl<'a> Tables<'a> {
    pub(super) fn open(
        write: &'a WriteTransaction,
        meta: &impl ReadableTable<&'static str, u64>,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            failures: write.open_table(FAILURES)?,
            by_time: write.open_table(BY_TIME)?,
            bytes: total(meta, BYTES)?,
        })
    }

    /// Removes the failure of `key` if `goes` returns true for the time at which it was saved.
    pub(super) fn remove(&mut self, key: &Key, goes: impl Fn(u64) -> bool) -> Result<(), StorageError> {
        let before = self.failures.get(key)?.map(|failure| {
            let (saved, _until, bytes) = failure.value();
            (saved, cost(bytes))
        });
        if let Some((saved, cost)) = before.filter(|(saved, _)| goes(*saved)) {
            self.failures.remove(key)?;
            self.by_time.remove((saved, key))?;
            self.bytes = self.bytes.saturating_sub(cost);
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, key: &Key, failure: &Failure) -> Result<(), StorageError> {
        self.remove(key, |_saved| true)?;
        let Failure { saved, until, bytes } = failure;
        self.failures.insert(key, (*saved, *until, &bytes[..]))?;
        self.by_time.insert((*saved, key), ())?;
        self.bytes += cost(bytes);
        Ok(())
    }

    /// Removes failures whose lifetime is over at `now`. Then evicts until their size is at most `limit`: first those dated later than
    /// `now`, then the oldest.
    pub(super) fn make_room(&mut self, limit: u64, now: u64) -> Result<(), StorageError> {
        let longest = u64::try_from(MAX_FAILURE_LIFETIME.as_micros()).unwrap_or(u64::MAX);
        while let Some((saved, key)) = next_to_evict(&self.by_time, now)? {
            let is_over = saved.saturating_add(longest) <= now;
            if !is_over && self.bytes <= limit {
                break;
            }
            self.remove(&key, |_saved| true)?;
            // Both tables have it, unless another program has changed the file.
            self.by_time.remove((saved, &key))?;
        }
        Ok(())
    }

    pub(super) fn close(self, meta: &mut Table<'_, &'static str, u64>) -> Result<(), StorageError> {
        meta.insert(BYTES, self.bytes)?;
        Ok(())
    }
}
