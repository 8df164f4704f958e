//! The API key, from a file that may be replaced while the program runs.
//!
//! The key is in no log, span, error or metric: [`ApiKey`] shows nothing, and the header that it is sent in is marked as sensitive. Its own memory is
//! overwritten when it is dropped; copies in buffers of HTTP and TLS are not, so whoever wants it in no core dump must switch these off.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use http::HeaderValue;
use zeroize::Zeroizing;

/// Longer than any key; Google's have 39 characters.
const MAX_KEY: usize = 4 << 10;

/// A key, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl ApiKey {
    /// The key in the content of a file: one word of ASCII characters, and blanks around it. Nothing else is one.
    #[must_use]
    pub fn new(content: &[u8]) -> Option<Self> {
        let key = content.trim_ascii();
        let is_key = !key.is_empty() && key.len() < MAX_KEY && key.iter().all(u8::is_ascii_graphic);
        is_key.then(|| Self(Zeroizing::new(key.to_vec())))
    }

    /// As the value of a header.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&self.0).expect("visible ASCII characters");
        value.set_sensitive(true);
        value
    }
}

/// Device, inode, length, and the times of the last changes of the content and of the rest: they tell one file from the next, also from one of the
/// same length that is renamed into its place within a second.
type Stamp = [u64; 7];

/// The file of the key.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    /// Of what was read last, whatever came of it. `None`: there was no such file.
    seen: Option<Stamp>,
    /// The last that could be read. A file that is gone for a moment, or half written, does not end it.
    key: ApiKey,
    /// Increases whenever the file has changed.
    generation: u64,
}

impl KeyFile {
    /// The key in the file at `path`.
    ///
    /// # Errors
    ///
    /// If there is none: better known at the start than at the first outage.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let seen = stamp(&path);
        let key = read(&path)?;
        Ok(Self {
            path,
            seen,
            key,
            generation: 0,
        })
    }

    /// The key, and its generation. Costs a system call, and reads the file if it has changed. A change for the worse is logged, once.
    #[must_use]
    pub fn current(&mut self) -> (&ApiKey, u64) {
        // Before it is read: what changes meanwhile is read again.
        let stamp = stamp(&self.path);
        if stamp != self.seen {
            self.seen = stamp;
            match read(&self.path) {
                Ok(key) => {
                    self.key = key;
                    self.generation += 1;
                    tracing::info!("the file of the API key has changed; it is used from now on");
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the last API key is used still");
                }
            }
        }
        (&self.key, self.generation)
    }
}

/// None if there is no such file.
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

fn read(path: &Path) -> io::Result<ApiKey> {
    // With its capacity from the beginning: growing would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * MAX_KEY));
    fs::File::open(path)?
        .take(MAX_KEY as u64)
        .read_to_end(&mut content)?;
    ApiKey::new(&content).ok_or_else(|| {
        io::Error::other("it must have the key and nothing else: one word of ASCII characters")
    })
}
