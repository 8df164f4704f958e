//! Answers by when they were saved, the oldest first: which make room for others.
//!
//! The row of an answer that is replaced stays for a while. Such rows are anywhere in the table, and a commit that removes one writes a
//! page (4 KiB) anew for it; many that are removed at once share pages. Until then they are stale: what they name was saved at another
//! time. After a crash nobody knows which these are, and they are looked for when the file is opened. A plaque that does not know of stale
//! rows may take an answer that was replaced lately for an old one, when it makes room.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem};

use redb::{
    ReadableTable, ReadableTableMetadata as _, StorageError, Table, TableDefinition, WriteTransaction,
};

use super::engine::Key;

/// The table.
pub(super) const BY_TIME: TableDefinition<(u64, &Key), ()> = TableDefinition::new("by_time");

/// Of stale rows there are no more than this, and for one of them at least two others, but for some.
const MAX_STALE: u64 = 8192;
const MIN_STALE: u64 = 64;

/// A row: when what has this key was saved.
pub(super) type Row = (u64, Key);

/// The stale rows, in the order of the table.
#[derive(Default)]
pub(super) struct Stale(BTreeSet<Row>);

/// The table in a transaction, with what is known of it.
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

    /// The row of something that is replaced or removed: it goes later.
    pub(super) fn mark_stale(&mut self, saved: u64, key: &Key) {
        self.stale.0.insert((saved, *key));
    }

    /// Takes out the row of what is to go next at `now`.
    pub(super) fn take_next(&mut self, now: u64) -> Result<Option<Row>, StorageError> {
        let next = next_to_evict(&self.table, now)?;
        if let Some(row) = &next {
            self.table.remove((row.0, &row.1))?;
            self.stale.0.remove(row);
        }
        Ok(next)
    }

    /// Removes stale rows if there are many, beside so many that are not.
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

    /// Removes the rows that a plaque which crashed has left stale in the table beside `kept`.
    pub(super) fn remove_leftovers(
        &mut self,
        kept: &impl ReadableTable<&'static Key, (u64, &'static [u8])>,
    ) -> Result<(), StorageError> {
        if self.table.len()? == kept.len()? {
            return Ok(());
        }
        for row in self.table.iter()? {
            let row = row?;
            let (saved, key) = row.0.value();
            if kept.get(key)?.is_none_or(|entry| entry.value().0 != saved) {
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

/// The row of what is to go next at `now`: first what is dated later, whose age is unknown, then the oldest.
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
