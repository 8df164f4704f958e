//! The file of `--trace-chrome`: how it ends, by itself or with the disk, and takes nothing with it.
//!
//! tracing-chrome is kept: the layer is 500 lines for a format with some traps (threads, async spans), depends on nothing but what
//! plaque has, and is off unless asked for. What it lacks is here: it would panic at a full disk, and write without end. Between it and
//! its thread is a queue without a bound, which grows while more spans end than one thread writes (some 100,000 a second); that ends with
//! the file, since nothing is recorded then.

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

use super::{SetupError, ours};

/// A quarter of an hour at 200 calls a second. Perfetto still opens it.
const LIMIT: u64 = 256 << 20;

/// Between two entries of the array. No text in them has a line break, which JSON escapes.
const SEPARATOR: &[u8] = b",\n";

/// The end of the array.
const END: &[u8] = b"\n]";

/// The layer that writes spans to `file`. It has written all when the guard is dropped.
pub(super) fn layer(file: &Path) -> Result<(Box<dyn Layer<Registry> + Send + Sync>, FlushGuard), SetupError> {
    let writer = File::create(file).map_err(|error| SetupError::Chrome(file.display().to_string(), error))?;
    let writer = TraceFile::new(writer, LIMIT);
    let recording = Arc::clone(&writer.recording);
    let (layer, guard) = ChromeLayerBuilder::new()
        .writer(writer)
        .include_args(true)
        // Spans last while they wait, and go on on other threads.
        .trace_style(TraceStyle::Async)
        // Of one category: what a call does is shown within it, from whichever module.
        .category_fn(Box::new(|_| env!("CARGO_CRATE_NAME").into()))
        .build();
    let recording = dynamic_filter_fn(move |_, _| recording.load(Relaxed));
    Ok((layer.with_filter(ours().and(recording)).boxed(), guard))
}

/// A file that is whole JSON when it has come to its limit, and that goes on when it cannot be written any more, on a full disk for one:
/// tracing-chrome would panic. What is lost is the rest of the trace.
struct TraceFile<W> {
    inner: W,
    limit: u64,
    written: u64,
    /// From the last [`SEPARATOR`] on, where the array can still be ended before it.
    held: Vec<u8>,
    /// Until the end of the file.
    recording: Arc<AtomicBool>,
}

impl<W: Write> TraceFile<W> {
    fn new(inner: W, limit: u64) -> Self {
        Self {
            inner,
            limit,
            written: 0,
            held: Vec::new(),
            recording: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Writes what is whole of what is held, or the end if that would be too much.
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

    fn bear(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.end();
            tracing::warn!(%error, "--trace-chrome: cannot write any more; the trace ends here");
        }
    }
}

impl<W: Write> Write for TraceFile<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.recording.load(Relaxed) {
            self.held.extend_from_slice(bytes);
            let written = self.write_entries();
            self.bear(written);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.recording.load(Relaxed) {
            let written = self.write_all_held();
            self.bear(written);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::captured_log::CapturedLog;

    /// A disk with room for so many bytes.
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

    /// An array of so many entries, as tracing-chrome writes it.
    fn array(entries: usize) -> String {
        let entry = |number| format!("{{\"ph\":\"b\",\"name\":\"a,\\nb\",\"id\":{number}}}");
        let entries: Vec<_> = (0..entries).map(entry).collect();
        format!("[\n{}\n]", entries.join(",\n"))
    }

    #[test]
    fn a_full_disk_ends_the_trace_and_nothing_else() {
        let log = CapturedLog::begin();
        let mut file = TraceFile::new(Disk(5), LIMIT);
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
            let mut file = TraceFile::new(Vec::new(), LIMIT);
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
            let mut file = TraceFile::new(Vec::new(), limit as u64);
            for piece in array.as_bytes().chunks(piece) {
                file.write_all(piece).expect("it goes on");
            }
            file.flush().expect("it goes on");
            assert!(file.inner.len() <= limit, "{}", file.inner.len());
            let entries: Vec<Value> = serde_json::from_slice(&file.inner).expect("JSON");
            // All but what came in the same piece as the end.
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
