//! Why a file cannot be opened, and how redb's errors and panics become text.

use std::{
    any::Any,
    fmt::Display,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use redb::DatabaseError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("another program has it")]
    Locked,
    /// Something other than a regular file is there. It is left alone.
    #[error("it is {0}")]
    NotAFile(&'static str),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its content cannot be read. [`Engine::open`](super::engine::Engine::open) renames it.
    #[error("{0}")]
    Unreadable(String),
}

impl From<DatabaseError> for Refused {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::Locked,
            error => redb::Error::from(error).into(),
        }
    }
}

impl From<redb::Error> for Refused {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Io(error)
            }
            // After an I/O error, which redb does not repeat.
            error @ redb::Error::PreviousIo => Self::Io(io::Error::other(error)),
            error => Self::Unreadable(error.to_string()),
        }
    }
}

/// Runs a transaction, whose error or panic becomes text.
pub(super) fn run<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    catch_panic(work)?.map_err(|error| error.to_string())
}

/// Catches panics of redb at a damaged file, which must not end a thread.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("redb panics: {}", panic_message(&*panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &dyn Display {
    if let Some(text) = panic.downcast_ref::<String>() {
        return text;
    }
    panic.downcast_ref::<&str>().unwrap_or(&"")
}
