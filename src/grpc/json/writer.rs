//! Writes JSON. Faster than a serializer, since it knows which strings need no escapes.

use chrono::{DateTime, Datelike as _, Timelike as _};
use prost_types::Timestamp;

/// The initial capacity in bytes, which most bodies fit into.
const CAPACITY: usize = 640;

/// Writes the fields of an object. A key is a quoted name with its colon, so that it is copied at once.
pub(super) struct JsonWriter(pub(super) Vec<u8>);

impl Default for JsonWriter {
    fn default() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }
}

impl JsonWriter {
    pub(super) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Self)) {
        self.value(key, "{");
        fields(self);
        self.0.push(b'}');
    }

    /// A string that is never empty and needs no escapes.
    pub(super) fn plain_string(&mut self, key: &str, parts: &[&str]) {
        self.value(key, "\"");
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
        self.0.push(b'"');
    }

    /// A string, which is omitted if empty, as protobuf JSON omits default values.
    pub(super) fn string(&mut self, key: &str, parts: &[&str]) {
        if parts.iter().all(|part| part.is_empty()) {
            return;
        }
        let begin = self.0.len();
        self.plain_string(key, parts);
        // Few strings need escapes, which is seen soonest when they are in one piece.
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let end = self.0.len() - 1;
        if needs_escapes(&self.0[end - length..end]) {
            self.0.truncate(begin);
            self.value(key, &serde_json::Value::from(parts.concat()).to_string());
        }
    }

    pub(super) fn number(&mut self, key: &str, number: u32) {
        if number != 0 {
            self.value(key, itoa::Buffer::new().format(number));
        }
    }

    /// A time of the years 0 to 9999 in RFC 3339, with as many groups of three digits as the fraction needs. Takes a third of chrono's time.
    pub(super) fn timestamp(&mut self, key: &str, time: Option<Timestamp>) {
        let time = time.and_then(|time| DateTime::from_timestamp(time.seconds, time.nanos.try_into().ok()?));
        let time = time.map(|time| time.naive_utc());
        let Some(time) = time.filter(|time| (0..10_000).contains(&time.year())) else {
            return;
        };
        let mut text = *b"0000-00-00T00:00:00.000000000";
        let year = time.year().unsigned_abs();
        let (date, clock) = ([year / 100, year % 100, time.month(), time.day()], time.time());
        let clock = [clock.hour(), clock.minute(), clock.second()];
        for (at, number) in [0, 2, 5, 8, 11, 14, 17]
            .into_iter()
            .zip(date.into_iter().chain(clock))
        {
            text[at] = b'0' + (number / 10 % 10) as u8;
            text[at + 1] = b'0' + (number % 10) as u8;
        }
        let mut fraction = time.nanosecond();
        if fraction > 0 {
            for digit in text[20..].iter_mut().rev() {
                *digit = b'0' + (fraction % 10) as u8;
                fraction /= 10;
            }
        }
        let length = match time.nanosecond() {
            0 => 19,
            nanos if nanos % 1_000_000 == 0 => 23,
            nanos if nanos % 1_000 == 0 => 26,
            _ => 29,
        };
        self.value(key, "\"");
        self.0.extend_from_slice(&text[..length]);
        self.0.extend_from_slice(b"Z\"");
    }

    pub(super) fn value(&mut self, key: &str, value: &str) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }
}

/// Whether a JSON string with this text has escapes. Checks all bytes, many at once, which is faster than stopping at the first match.
fn needs_escapes(text: &[u8]) -> bool {
    let any = |bytes: &[u8]| {
        let escape = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
        bytes.iter().fold(false, |any, byte| any | escape(byte))
    };
    let (chunks, rest) = text.as_chunks::<16>();
    chunks.iter().any(|chunk| any(chunk)) || any(rest)
}
