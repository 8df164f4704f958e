//! What is in the file: keys, tables, sizes.

use redb::{ReadableTable, StorageError, TableDefinition};

use crate::{
    upstream::Feed,
    video::{ChannelId, Kind},
};

/// The version of the tables.
pub const FORMAT: u64 = 1;

/// The least limit of a file.
pub const MIN_BYTES: u64 = 4 << 20;

/// The limit of the file divided by this is the limit of its entries: a file doubles when it grows, and its pages are at most half full.
pub const SPACE_FACTOR: u64 = 6;

/// What an entry takes in addition to its bytes: key and time in both tables, and B-tree overhead.
pub(super) const ENTRY_OVERHEAD: u64 = 100;

/// A channel ID, and one byte for the kind; or a hash of a name, and `n`.
pub(super) type Key = [u8; ChannelId::LEN + 1];

/// When an entry was saved, in microseconds since 1970, and its [encoding](crate::store::codec).
pub(super) const ENTRIES: TableDefinition<&Key, (u64, &[u8])> = TableDefinition::new("kept");
/// The format, and the sizes of successes and failures.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

pub(super) const BYTES: &str = "bytes";
pub(super) const UNITS_DAY: &str = "units_day";
pub(super) const UNITS: &str = "units";

/// Units by day and by fingerprint of the key. Versions without this table only know the sum, in [`META`].
pub(super) const UNITS_BY_KEY: TableDefinition<(u32, u16), u64> = TableDefinition::new("units");

/// The key of a feed.
pub(super) fn key(feed: Feed) -> Key {
    let mut key = [0; _];
    key[..ChannelId::LEN].copy_from_slice(feed.channel.as_ref());
    key[ChannelId::LEN] = match feed.kind {
        None => b'-',
        Some(Kind::Video) => b'v',
        Some(Kind::Short) => b's',
    };
    key
}

/// The key of a name: a hash, since names have up to 400 bytes. Its last byte is no kind of a feed's. Versions that know no names ignore the
/// entry, and evict it like others.
pub(super) fn name_key(name: &str) -> Key {
    let mut key = [b'n'; _];
    let hash = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    key[..ChannelId::LEN].copy_from_slice(&hash.as_ref()[..ChannelId::LEN]);
    key
}

/// A number of [`META`]; 0 if it is not there.
pub(super) fn total(meta: &impl ReadableTable<&'static str, u64>, of: &str) -> Result<u64, StorageError> {
    Ok(meta.get(of)?.map_or(0, |total| total.value()))
}
