//! Parses the flags of the log.

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

use crate::{cli::show, telemetry};

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// Text for people
    Pretty,
    /// Text for developers: spans and what happens in them, indented; most spans have the level debug
    Tree,
    /// One JSON object per line
    Json,
}

/// Checks the directives of a filter. A misspelled level would be taken for a target, and silence all others.
pub(super) fn directives(text: &str) -> Result<String, String> {
    // Within brackets, fields are separated by commas, too.
    let mut words = text.split(',').map(str::trim).filter(|_| !text.contains('['));
    let is_known = |word: &str| {
        word.is_empty()
            || word.contains('=')
            || word.parse::<LevelFilter>().is_ok()
            || ["plaque", "coalesce"].iter().any(|own| word.starts_with(own))
    };
    if let Some(word) = words.find(|word| !is_known(word)) {
        return Err(format!(
            "{} is not a level; expected off, error, warn, info, debug or trace, or directives such as plaque=debug",
            show::given(word)
        ));
    }
    match telemetry::filter(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!(
            "{error}; expected a level such as info, or directives such as plaque=debug"
        )),
    }
}
