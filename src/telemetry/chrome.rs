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
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::captured_log::CapturedLog;

    /// A disk with this much space, in bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An array with this many entries, as tracing-chrome writes it.
    fn array(entries: usize) -> String {
        let entry = |number| format!("{{\"ph\":\"b\",\"name\":\"a,\\nb\",\"id\":{number}}}");
        let entries: Vec<_> = (0..entries).map(entry).collect();
        format!("[\n{}\n]", entries.join(",\n"))
    }

    #[test]
    fn a_full_disk_ends_the_trace_and_nothing_else() {
        let log = CapturedLog::begin();
        let mut file = FaultTolerantWriter::new(Disk(5), LIMIT);
        for part in ["[\n1,\n2", ",\n3", ",\n4"] {
            file.write_all(part.as_bytes()).expect("it goes on");
        }
        file.flush().expect("it goes on");
        assert_eq!(file.inner.0, 2, "nothing comes after the gap");
        assert_eq!(log.lines().len(), 1);
        assert!(!file.recording.load(Relaxed));
    }

    #[test]
    fn a_trace_is_whole_whatever_its_pieces() {
        let array = array(100);
        for piece in [1, 2, 7, 40, 10_000] {
            let mut file = FaultTolerantWriter::new(Vec::new(), LIMIT);
            for piece in array.as_bytes().chunks(piece) {
                file.write_all(piece).expect("written");
            }
            file.flush().expect("written");
            assert!(file.inner == array.as_bytes(), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_trace_ends_within_its_limit_as_json_and_says_so_once() {
        let array = array(100);
        for piece in [1, 2, 7, 40, 500] {
            let log = CapturedLog::begin();
            let limit = array.len() / 2;
            let mut file = FaultTolerantWriter::new(Vec::new(), limit as u64);
            for piece in array.as_bytes().chunks(piece) {
                file.write_all(piece).expect("it goes on");
            }
            file.flush().expect("it goes on");
            assert!(file.inner.len() <= limit, "{}", file.inner.len());
            let entries: Vec<Value> = serde_json::from_slice(&file.inner).expect("JSON");
            // All except those in the same write as the end.
            assert!(
                (30..60).contains(&entries.len()),
                "{} in pieces of {piece}",
                entries.len()
            );
            let lines = log.lines();
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("limit"), "{lines:?}");
            assert!(!file.recording.load(Relaxed), "spans are made no more");
        }
    }
}
