//! What an error comes down to.

use std::error::Error;

/// The innermost cause, which says what happened (`Connection refused`). The outer ones name addresses, which are not the caller's.
pub(crate) fn innermost<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}
