//! Finds the root cause of an error.

use std::error::Error;

/// The innermost cause, which says what happened (`Connection refused`). The outer ones contain addresses, which callers must not see.
pub(crate) fn innermost<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}
