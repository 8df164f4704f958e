//! The store's file in the file system: what may be opened, its permissions, and whether it is still at its path.

use std::{
    ffi::OsString,
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
};

use super::{format::MIN_BYTES, refused::Refused};

/// How many unreadable files are kept beside the current one. The last is replaced.
const MAX_SET_ASIDE: u32 = 5;

/// Identifies a file, independently of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// Opens the file at `path`, or creates one that only this user can read.
///
/// Checks the type before it opens: opening a FIFO could block for ever, and opening a device could do anything. Symbolic links are
/// refused, since renaming an unreadable file would rename the link.
pub(super) fn open(path: &Path) -> Result<(File, Identity), Refused> {
    match path.symlink_metadata() {
        Ok(there) => check(there.file_type())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        // If the path was replaced after the check.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        options.mode(OWNER_ONLY).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let opened = file.metadata()?;
    check(opened.file_type())?;
    restrict_permissions(path, &file, &opened);
    let identity = identity(&opened);
    Ok((file, identity))
}

/// Whether `path` now leads to another file than `was`, or to none.
pub(super) fn is_gone(path: &Path, was: Identity) -> bool {
    match path.symlink_metadata() {
        Ok(there) => identity(&there) != was,
        // Other errors do not tell.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Refuses a non-empty file that begins with zeros instead of redb's magic number: redb would initialize it.
pub(super) fn expect_magic(file: &mut File) -> Result<(), Refused> {
    let mut first = [1; 8];
    let read = file.read_exact(&mut first);
    file.rewind()?;
    match read {
        Ok(()) if first == [0; 8] => Err(Refused::Unreadable("it begins with zeros".into())),
        // The file is shorter.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether the file consists of zeros: its creation was interrupted after its length was set.
pub(super) fn is_blank(path: &Path) -> bool {
    let is_short = path.metadata().is_ok_and(|there| there.len() <= MIN_BYTES);
    is_short && fs::read(path).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// The name under which an unreadable file is kept.
pub(super) fn set_aside_name(path: &Path) -> PathBuf {
    let name = |number: u32| {
        let mut name = OsString::from(path);
        name.push(format!(".bad-{number}"));
        PathBuf::from(name)
    };
    (1..MAX_SET_ASIDE)
        .map(name)
        .find(|name| !name.exists())
        .unwrap_or_else(|| name(MAX_SET_ASIDE))
}

fn check(kind: FileType) -> Result<(), Refused> {
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(Refused::NotAFile("a folder"));
    }
    if kind.is_symlink() {
        return Err(Refused::NotAFile(
            "a symbolic link: name the file that it leads to",
        ));
    }
    Err(Refused::NotAFile("a FIFO, a socket or a device"))
}

#[cfg(unix)]
const OWNER_ONLY: u32 = 0o600;

/// Removes other users' permissions: they could read which channels were requested, and write what callers are told.
#[cfg(unix)]
fn restrict_permissions(path: &Path, file: &File, opened: &Metadata) {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    let mode = opened.permissions().mode() & 0o777;
    if mode & !OWNER_ONLY == 0 {
        return;
    }
    let path = path.display();
    match file.set_permissions(Permissions::from_mode(OWNER_ONLY)) {
        Ok(()) => tracing::info!(
            "the store {path} was accessible to other users (mode {mode:04o}); its mode is {OWNER_ONLY:04o} now"
        ),
        Err(error) => {
            tracing::warn!("the store {path} is accessible to other users (mode {mode:04o}): {error}");
        }
    }
}

#[cfg(unix)]
fn identity(file: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Identity {
        device: file.dev(),
        inode: file.ino(),
    }
}

#[cfg(not(unix))]
fn restrict_permissions(_path: &Path, _file: &File, _opened: &Metadata) {}

#[cfg(not(unix))]
fn identity(_file: &Metadata) -> Identity {
    // Such systems do not let an open file be removed.
    Identity { device: 0, inode: 0 }
}
