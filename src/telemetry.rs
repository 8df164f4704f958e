//! The only place that builds a `tracing` subscriber.

use std::{
    io::{self, IsTerminal as _},
    panic,
};

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Parses what is logged: a level, or directives such as `plaque=debug,h2=warn`.
///
/// # Errors
///
/// If it is neither.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(directives)
}

/// Logs to standard error from here on, panics included. Call once.
pub fn start(format: Format, filter: EnvFilter) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        Format::Pretty => builder.with_target(false).init(),
        Format::Json => builder.json().init(),
    }
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("(no message)");
        tracing::error!(
            place,
            message,
            "a task panicked; what it was doing failed, the rest goes on"
        );
    }));
}
