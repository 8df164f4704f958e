//! The only place that builds a `tracing` subscriber: the log, and where spans go beside it.
//!
//! Each layer has a filter of its own. The spans of calls and flights have the level `debug`: where only the log is written, and
//! that from `info`, their callsites are off, and cost one comparison.

mod chrome;
mod escape;
mod export;
mod log;
mod throttle;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    panic,
    path::Path,
};

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
    log::{Repeats, Teller},
};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Pretty,
    /// For people who look for where time goes: spans with what happens in them, indented.
    Tree,
    /// One JSON object a line.
    Json,
}

/// What is told, and to whom.
#[derive(Debug)]
pub struct Settings<'a> {
    /// How the log is written, to standard error.
    pub format: Format,
    /// What of it.
    pub filter: EnvFilter,
    /// The collector that spans are exported to, as [`endpoint`] has it.
    pub otlp_endpoint: Option<&'a str>,
    /// The file that spans are written to for Perfetto.
    pub chrome: Option<&'a Path>,
}

impl Settings<'_> {
    /// The log, and nothing else.
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

/// Telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// It was set up before.
    #[error("the log is set up already: {0}")]
    Twice(#[from] SetGlobalDefaultError),
    /// The exporter cannot.
    #[error("--otlp-endpoint: {0}")]
    Export(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The system gave no thread.
    #[error("--otlp-endpoint: cannot start a thread for the export: {0}")]
    Thread(io::Error),
    /// The system gave no thread for the log.
    #[error("cannot start a thread for the log: {0}")]
    LogThread(io::Error),
    /// The file for Perfetto cannot be written.
    #[error("--trace-chrome: cannot write {0}: {1}")]
    Chrome(String, io::Error),
}

/// Exports until it is dropped, which waits for what is left to get out, for a few seconds at most.
#[must_use = "when it is dropped, no more is exported"]
pub struct Telemetry {
    // Before the log's: it may tell of trouble at the end.
    _export: Option<Export>,
    _chrome: Option<FlushGuard>,
    _log: Teller,
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Parses what is logged: a level, or directives such as `plaque=debug,h2=warn`.
///
/// # Errors
///
/// If it is neither.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(directives)
}

/// Logs from here on, panics included, and exports spans if that is set. Call once.
///
/// # Errors
///
/// If an exporter cannot be set up. What is wrong with a collector shows later, and in the log.
pub fn start(settings: Settings<'_>) -> Result<Telemetry, SetupError> {
    let (export, exported) = settings.otlp_endpoint.map(Export::start).transpose()?.unzip();
    let (written, chrome) = settings.chrome.map(chrome::layer).transpose()?.unzip();
    let (teller, repeats) = Teller::start().map_err(SetupError::LogThread)?;
    let mut layers = vec![log(settings.format, settings.filter, repeats)];
    layers.extend(exported.map(|layer| layer.with_filter(ours()).boxed()));
    layers.extend(written);
    #[cfg(all(feature = "tokio-console", tokio_unstable))]
    layers.push(console_subscriber::spawn().boxed());
    // Without a bridge from the crate `log`: what that asks about makes layers with a filter of their own lose what comes next.
    let subscriber = tracing_subscriber::registry().with(layers);
    tracing::subscriber::set_global_default(subscriber)?;
    panic::set_hook(Box::new(tell_of_panic));
    #[cfg(all(feature = "tokio-console", not(tokio_unstable)))]
    tracing::error!(
        "no tokio-console: tokio was built without it; build with RUSTFLAGS=\"--cfg tokio_unstable\""
    );
    Ok(Telemetry {
        _export: export,
        _chrome: chrome,
        _log: teller,
    })
}

/// The log, what of it is wanted, and the spans of a panic.
fn log(format: Format, filter: EnvFilter, repeats: Repeats) -> AnyLayer {
    let colors = io::stderr().is_terminal();
    let log = log::layer(format, BoxMakeWriter::new(io::stderr), colors, repeats);
    log.and_then(ErrorLayer::default()).with_filter(filter).boxed()
}

/// Spans of ours. Those of the libraries would tell of the export, too, and be exported.
fn ours() -> Targets {
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG)
}

fn tell_of_panic(panic: &panic::PanicHookInfo<'_>) {
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

/// The spans that this thread is in, the innermost first; also those that the log does not show.
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
mod tests {
    use tracing_chrome::ChromeLayerBuilder;

    use super::*;

    #[test]
    fn a_panic_tells_in_which_spans_it_happened() {
        for format in [Format::Pretty, Format::Tree, Format::Json] {
            let filter = filter("info").expect("a level");
            let (_teller, repeats) = Teller::start().expect("a thread");
            let layers = vec![
                log(format, filter, repeats),
                ChromeLayerBuilder::new()
                    .writer(io::sink())
                    .build()
                    .0
                    .with_filter(ours())
                    .boxed(),
            ];
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), || {
                assert_eq!(span_trace(), None);
                let _call = tracing::debug_span!("call", method = "get").entered();
                let _lookup = tracing::info_span!("lookup", feed = 7).entered();
                assert_eq!(
                    span_trace().as_deref(),
                    Some("lookup{feed=7} < call"),
                    "{format:?}"
                );
            });
        }
    }
}
