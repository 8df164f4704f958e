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
