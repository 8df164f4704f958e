//! The index of successes by the time at which they were saved. The oldest are evicted first.
//!
//! The row of an entry that is replaced becomes *stale* and is removed later, with others: rows are anywhere in the table, a commit that
//! removes one rewrites a page (4 KiB), and many removed at once share pages. A stale row has another time than the entry has now. Which
//! rows are stale is only known in memory; after a crash they are searched for when the file is opened. A version of plaque that does not
//! know of stale rows may take such a row for an old entry, and evict that entry early.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem};

use redb::{
    ReadableTable, ReadableTableMetadata as _, StorageError, Table, TableDefinition, WriteTransaction,
};

use super::engine::Key;

/// Time and key of each entry.
pub(super) const BY_TIME: TableDefinition<(u64, &Key), ()> = TableDefinition::new("by_time");

/// Stale rows are removed when they are more than half as many as the current ones, within these bounds.
const MAX_STALE: u64 = 8192;
const MIN_STALE: u64 = 64;

/// When the entry with this key was saved.
pub(super) type Row = (u64, Key);

/// The stale rows, in the order of the table.
#[derive(Default)]
pub(super) struct Stale(BTreeSet<Row>);

/// The table within a transaction, and its stale rows.
pub(super) struct Rows<'a> {
    table: Table<'a, (u64, &'static Key), ()>,
    stale: &'a mut Stale,
}

impl<'a> Rows<'a> {
    pub(super) fn open(write: &'a WriteTransaction, stale: &'a mut Stale) -> Result<Self, redb::Error> {
        let table = write.open_table(BY_TIME)?;
        Ok(Self { table, stale })
    }

    pub(super) fn insert(&mut self, saved: u64, key: &Key) -> Result<(), StorageError> {
        self.stale.0.remove(&(saved, *key));
        self.table.insert((saved, key), ())?;
        Ok(())
    }

    /// Marks the row of an entry that is replaced or removed.
    pub(super) fn mark_stale(&mut self, saved: u64, key: &Key) {
        self.stale.0.insert((saved, *key));
    }

    /// Removes and returns the row of the next entry to evict at `now`.
    pub(super) fn take_next(&mut self, now: u64) -> Result<Option<Row>, StorageError> {
        let next = next_to_evict(&self.table, now)?;
        if let Some(row) = &next {
            self.table.remove((row.0, &row.1))?;
            self.stale.0.remove(row);
        }
        Ok(next)
    }

    /// Removes the stale rows if there are many, compared to the number of `current` ones.
    pub(super) fn tidy(&mut self, current: u64) -> Result<(), StorageError> {
        if self.stale.0.len() as u64 > (current / 2).clamp(MIN_STALE, MAX_STALE) {
            self.remove_stale()?;
        }
        Ok(())
    }

    pub(super) fn remove_stale(&mut self) -> Result<(), StorageError> {
        for (saved, key) in mem::take(&mut self.stale.0) {
            self.table.remove((saved, &key))?;
        }
        Ok(())
    }

    /// Removes the stale rows that a crash has left behind: those whose entry in `entries` has another time.
    pub(super) fn remove_leftovers(
        &mut self,
        entries: &impl ReadableTable<&'static Key, (u64, &'static [u8])>,
    ) -> Result<(), StorageError> {
        if self.table.len()? == entries.len()? {
            return Ok(());
        }
        for row in self.table.iter()? {
            let row = row?;
            let (saved, key) = row.0.value();
            if entries.get(key)?.is_none_or(|entry| entry.value().0 != saved) {
                self.stale.0.insert((saved, *key));
            }
        }
        self.remove_stale()
    }
}

impl Stale {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The row of the next entry to evict at `now`: first those dated in the future, whose age is unknown, then the oldest.
pub(super) fn next_to_evict(
    by_time: &impl ReadableTable<(u64, &'static Key), ()>,
    now: u64,
) -> Result<Option<Row>, StorageError> {
    let ahead = by_time.range((now.saturating_add(1), &[0; _])..)?.next();
    let next = match ahead {
        Some(ahead) => Some(ahead?),
        None => by_time.first()?,
    };
    Ok(next.map(|(next, _)| {
        let (saved, key) = next.value();
        (saved, *key)
    }))
}
