//! Writes the file of `--trace-chrome`, with a limit, and without failing when the disk is full.
//!
//! The layer is tracing-chrome's: 500 lines for a format with some traps (threads, async spans), with no further dependencies, off unless
//! requested. Added here is what it lacks: it would panic when the disk is full, and write without end. The queue between it and its thread
//! is unbounded, and grows while more spans end than one thread writes (about 100,000 a second). It stops growing at the end of the file,
//! since nothing is recorded afterwards.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tracing_chrome::{ChromeLayerBuilder, FlushGuard, TraceStyle};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt as _, dynamic_filter_fn},
};

use super::{SetupError, own_spans};

/// A quarter of an hour at 200 calls a second. Perfetto can still open it.
const LIMIT: u64 = 256 << 20;

/// Between two entries of the array. Texts contain no line break, since JSON escapes them.
const SEPARATOR: &[u8] = b",\n";

const END: &[u8] = b"\n]";

/// The layer that writes spans to `file`. Everything is written when the guard is dropped.
pub(super) fn layer(file: &Path) -> Result<(Box<dyn Layer<Registry> + Send + Sync>, FlushGuard), SetupError> {
    let writer = File::create(file).map_err(|error| SetupError::Chrome(file.display().to_string(), error))?;
    let writer = FaultTolerantWriter::new(writer, LIMIT);
    let recording = Arc::clone(&writer.recording);
    let (layer, guard) = ChromeLayerBuilder::new()
        .writer(writer)
        .include_args(true)
        // Spans continue while they wait, and on other threads.
        .trace_style(TraceStyle::Async)
        // One category, so that what a call does is shown within it, whatever the module.
        .category_fn(Box::new(|_| env!("CARGO_CRATE_NAME").into()))
        .build();
    let recording = dynamic_filter_fn(move |_, _| recording.load(Relaxed));
    Ok((layer.with_filter(own_spans().and(recording)).boxed(), guard))
}

/// A file that is complete JSON when it reaches its limit. After a failed write, for example because the disk is full, it accepts and
/// discards the rest of the trace: tracing-chrome would panic.
struct FaultTolerantWriter<W> {
    inner: W,
    limit: u64,
    written: u64,
    /// The bytes from the last [`SEPARATOR`] on: the array can still be ended before it.
    held: Vec<u8>,
    /// False after the end of the file.
    recording: Arc<AtomicBool>,
}

impl<W: Write> FaultTolerantWriter<W> {
    fn new(inner: W, limit: u64) -> Self {
        Self {
            inner,
            limit,
            written: 0,
            held: Vec::new(),
            recording: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Writes the complete entries in `held`, or the end if they would exceed the limit.
    fn write_entries(&mut self) -> io::Result<()> {
        let mut pairs = self.held.windows(SEPARATOR.len());
        let Some(whole) = pairs.rposition(|pair| pair == SEPARATOR) else {
            return Ok(());
        };
        if self.written + (whole + END.len()) as u64 > self.limit {
            self.end();
            self.inner.write_all(END)?;
            self.inner.flush()?;
            let limit = bytesize::ByteSize(self.limit);
            tracing::warn!("--trace-chrome: the file has {limit}, which is its limit; the trace ends here");
            return Ok(());
        }
        self.inner.write_all(&self.held[..whole])?;
        self.written += whole as u64;
        self.held.drain(..whole);
        Ok(())
    }

    fn write_all_held(&mut self) -> io::Result<()> {
        self.inner.write_all(&self.held)?;
        self.written += self.held.len() as u64;
        self.held.clear();
        self.inner.flush()
    }

    fn end(&mut self) {
        self.recording.store(false, Relaxed);
        self.held = Vec::new();
    }

    fn absorb(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.end();
            tracing::warn!(%error, "--trace-chrome: cannot write any more; the trace ends here");
        }
    }
}

impl<W: Write> Write for FaultTolerantWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.recording.load(Relaxed) {
            self.held.extend_from_slice(bytes);
            let written = self.write_entries();
            self.absorb(written);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.recording.load(Relaxed) {
            let written = self.write_all_held();
            self.absorb(written);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
