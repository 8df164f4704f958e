//! The API key, from a file that may be replaced while the program runs.
//!
//! The key is in no log, span, error or metric: the `Debug` of [`ApiKey`] omits it, and the header with it is marked as sensitive. Its memory is
//! overwritten when it is dropped. Copies in buffers of HTTP and TLS are not, so core dumps have to be disabled. A store
//! has a fingerprint of 16 bits.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use http::HeaderValue;
use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

/// The bytes of a file that are read. Google's keys have 39 characters.
const MAX_KEY: usize = 4 << 10;

/// A key. Its `Debug` output does not contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl ApiKey {
    /// Parses the content of a file: one word of ASCII characters, which may have blanks around it.
    #[must_use]
    pub fn new(content: &[u8]) -> Option<Self> {
        let key = content.trim_ascii();
        let is_key = !key.is_empty() && key.len() < MAX_KEY && key.iter().all(u8::is_ascii_graphic);
        is_key.then(|| Self(Zeroizing::new(key.to_vec())))
    }

    /// The key as the value of a header.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&self.0).expect("visible ASCII characters");
        value.set_sensitive(true);
        value
    }

    /// The first 16 bits of a hash, by which a store counts the key's units. Too few to identify a key: thousands of Google's share them. Two
    /// keys of one operator that do, one pair in 65,536, are counted as one.
    fn fingerprint(&self) -> u16 {
        let mut hash = Context::new(&SHA256);
        hash.update(b"plaque: the key whose units are counted\0");
        hash.update(&self.0);
        let hash = hash.finish();
        u16::from_be_bytes([hash.as_ref()[0], hash.as_ref()[1]])
    }
}

/// Which key it is, without the key. Of two, the one that was read later is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId {
    /// Increases with each new key: 1 is the first.
    pub generation: u64,
    /// The same for the same key at all replicas, and after a restart.
    pub fingerprint: u16,
}

/// Device, inode, length, and the times of the last changes of content and metadata. They differ for another file, also if it has the same length
/// and is renamed into place within a second.
type Stamp = [u64; 7];

/// The file of the key.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    /// The stamp of the file that was read last, even if it had no key. `None`: there was no file.
    seen: Option<Stamp>,
    /// The last key that could be read. It stays in use while the file is missing or half written.
    key: ApiKey,
    id: KeyId,
}

impl KeyFile {
    /// Reads the key from the file at `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has no key.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let seen = stamp(&path);
        let key = read(&path)?;
        let id = KeyId {
            generation: 1,
            fingerprint: key.fingerprint(),
        };
        Ok(Self { path, seen, key, id })
    }

    /// The key, and which it is. Makes a system call, and reads the file if it has changed. If it has no key then, that is logged once.
    #[must_use]
    pub fn current(&mut self) -> (&ApiKey, KeyId) {
        // Before the file is read, so that a change meanwhile is noticed.
        let stamp = stamp(&self.path);
        if stamp != self.seen {
            self.seen = stamp;
            match read_again(&self.path) {
                // Orchestrators replace the file also when another secret has changed. The same key has no new units.
                Ok(key) if key == self.key => {}
                Ok(key) => {
                    self.id.fingerprint = key.fingerprint();
                    self.id.generation += 1;
                    self.key = key;
                    tracing::info!("the file has another API key; it is used from now on");
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the last API key is used still");
                }
            }
        }
        (&self.key, self.id)
    }
}

/// `None` if there is no such file.
fn stamp(path: &Path) -> Option<Stamp> {
    let of = fs::metadata(path).ok()?;
    let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()].map(i64::cast_unsigned);
    let [modified, modified_nanos, changed, changed_nanos] = times;
    Some([
        of.dev(),
        of.ino(),
        of.size(),
        modified,
        modified_nanos,
        changed,
        changed_nanos,
    ])
}

/// Reads a file that has changed. A FIFO or a device would block all lookups until somebody writes to it; only the start may wait for that.
fn read_again(path: &Path) -> io::Result<ApiKey> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file any more"));
    }
    read(path)
}

fn read(path: &Path) -> io::Result<ApiKey> {
    // A vector that grows would leave copies in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * MAX_KEY));
    fs::File::open(path)?
        .take(MAX_KEY as u64)
        .read_to_end(&mut content)?;
    ApiKey::new(&content).ok_or_else(|| {
        io::Error::other("it must have the key and nothing else: one word of ASCII characters")
    })
}
