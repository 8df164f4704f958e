//! Parses the flags of the log.

use clap::ValueEnum;

use crate::telemetry;

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// Text for people
    Pretty,
    /// Text for developers: spans and what happens in them, indented; most spans have the level debug
    Tree,
    /// One JSON object per line
    Json,
}

/// Checks the directives of a filter.
pub(super) fn directives(text: &str) -> Result<String, String> {
    match telemetry::filter(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!(
            "{error}; expected a level such as info, or directives such as plaque=debug"
        )),
    }
}
