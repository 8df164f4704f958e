//! How the log's flags are read.

use clap::ValueEnum;

use crate::telemetry;

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Pretty,
    /// For people who develop: spans with what happens in them, indented; most are there from the level debug
    Tree,
    /// One object a line
    Json,
}

/// The directives of a filter, checked.
pub(super) fn directives(text: &str) -> Result<String, String> {
    match telemetry::filter(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!(
            "{error}; expected a level such as info, or directives such as plaque=debug"
        )),
    }
}
