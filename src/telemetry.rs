//! Builds the `tracing` subscriber: the log, and where spans go. Nothing else does.
//!
//! Each layer has a filter of its own. Spans of calls and flights have the level `debug`. If there is only the log, at `info`, their
//! callsites are off and cost one comparison.

mod chrome;
mod escape;
mod export;
mod log;
mod throttle;

use std::{fmt::Write as _, io, panic, path::Path};

use anstream::{AutoStream, ColorChoice};
use tracing::{level_filters::LevelFilter, subscriber::SetGlobalDefaultError};
use tracing_chrome::FlushGuard;
use tracing_error::{ErrorLayer, SpanTrace};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, Targets},
    fmt::writer::BoxMakeWriter,
    layer::SubscriberExt as _,
};

pub use self::export::{BadEndpoint, endpoint};
use self::{
    export::Export,
    log::{RepeatFilter, Reporter},
};

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Pretty,
    /// Text for people who look for where time goes: spans and what happens in them, indented.
    Tree,
    /// One JSON object per line.
    Json,
}

/// What is logged and exported.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The format of the log, which goes to standard error.
    pub format: Format,
    /// Which events and spans are logged.
    pub filter: EnvFilter,
    /// The collector to export spans to, as validated by [`endpoint`].
    pub otlp_endpoint: Option<&'a str>,
    /// The file to write spans to for Perfetto.
    pub chrome: Option<&'a Path>,
}

impl Settings<'_> {
    /// Only the log.
    #[must_use]
    pub fn log(format: Format, filter: EnvFilter) -> Self {
        Self {
            format,
            filter,
            otlp_endpoint: None,
            chrome: None,
        }
    }
}

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// It was set up before.
    #[error("the log is set up already: {0}")]
    Twice(#[from] SetGlobalDefaultError),
    /// The exporter cannot be built.
    #[error("--otlp-endpoint: {0}")]
    Export(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No thread could be started.
    #[error("--otlp-endpoint: cannot start a thread for the export: {0}")]
    Thread(io::Error),
    /// No thread could be started for the log.
    #[error("cannot start a thread for the log: {0}")]
    LogThread(io::Error),
    /// The file for Perfetto cannot be written.
    #[error("--trace-chrome: cannot write {0}: {1}")]
    Chrome(String, io::Error),
}

/// Exports spans until it is dropped, which waits up to a few seconds for the remaining ones.
#[must_use = "when it is dropped, no more is exported"]
pub struct Telemetry {
    // Before the log: it may log an error at the end.
    _export: Option<Export>,
    _chrome: Option<FlushGuard>,
    _log: Reporter,
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Parses what to log: a level, or directives such as `plaque=debug,h2=warn`. More than `info`, a level alone is of plaque's own code, and
/// libraries stay at `info`.
///
/// # Errors
///
/// If the text is neither.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let builder = EnvFilter::builder();
    match directives.trim().parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::INFO => {
            builder.parse(format!("info,plaque={level},coalesce={level}"))
        }
        _ => builder.parse(directives),
    }
}

/// Installs the subscriber: logs from here on, panics included, and exports spans if configured. Call it once.
///
/// # Errors
///
/// If an exporter cannot be set up. A collector that does not answer is not an error; it is logged later.
pub fn start(settings: Settings<'_>) -> Result<Telemetry, SetupError> {
    let (export, exported) = settings.otlp_endpoint.map(Export::start).transpose()?.unzip();
    let (written, chrome) = settings.chrome.map(chrome::layer).transpose()?.unzip();
    let (reporter, repeats) = Reporter::start().map_err(SetupError::LogThread)?;
    let mut layers = vec![log(settings.format, settings.filter, repeats)];
    layers.extend(exported.map(|layer| layer.with_filter(own_spans()).boxed()));
    layers.extend(written);
    #[cfg(all(feature = "tokio-console", tokio_unstable))]
    layers.push(console_subscriber::spawn().boxed());
    // Without a bridge from the crate `log`: its queries make layers with a filter of their own lose the next event.
    let subscriber = tracing_subscriber::registry().with(layers);
    tracing::subscriber::set_global_default(subscriber)?;
    panic::set_hook(Box::new(log_panic));
    #[cfg(all(feature = "tokio-console", not(tokio_unstable)))]
    tracing::error!(
        "no tokio-console: tokio was built without it; build with RUSTFLAGS=\"--cfg tokio_unstable\""
    );
    Ok(Telemetry {
        _export: export,
        _chrome: chrome,
        _log: reporter,
    })
}

/// The layer of the log, which also records the spans of a panic.
fn log(format: Format, filter: EnvFilter, repeats: RepeatFilter) -> AnyLayer {
    // What --color, NO_COLOR and similar variables say.
    let colors = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let log = log::layer(format, BoxMakeWriter::new(io::stderr), colors, repeats);
    log.and_then(ErrorLayer::default()).with_filter(filter).boxed()
}

/// Only plaque's own spans. Libraries' spans would include the export itself.
fn own_spans() -> Targets {
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG)
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let spans = span_trace();
    tracing::error!(
        place,
        message,
        spans,
        "a task panicked; what it was doing failed, the rest goes on"
    );
}

/// The spans that this thread is in, innermost first, including those that are not logged.
fn span_trace() -> Option<String> {
    let mut text = String::new();
    SpanTrace::capture().with_spans(|span, fields| {
        let within = if text.is_empty() { "" } else { " < " };
        // Writing to a String does not fail.
        let _ = match fields {
            "" => write!(text, "{within}{}", span.name()),
            _ => write!(text, "{within}{}{{{fields}}}", span.name()),
        };
        true
    });
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
