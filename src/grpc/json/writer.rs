//! Writes JSON. Faster than a serializer, since it knows which strings need no escapes.

use std::ops::Range;

use prost_types::Timestamp;

/// The initial capacity in bytes, which most bodies fit into.
const CAPACITY: usize = 640;

/// Writes the fields of an object. A key is a quoted name with its colon, and with what its value begins with, so that it is copied at once.
pub(super) struct JsonWriter(pub(super) Vec<u8>);

impl Default for JsonWriter {
    fn default() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }
}

impl JsonWriter {
    /// Begins with a brace in `key`.
    pub(super) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Self)) {
        self.value(key, "");
        fields(self);
        self.0.push(b'}');
    }

    /// A string that is never empty and needs no escapes. Begins with a quote in `key`.
    pub(super) fn plain_string(&mut self, key: &str, parts: &[&str]) {
        self.value(key, "");
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
        self.0.push(b'"');
    }

    /// A string, which is omitted if empty, as protobuf JSON omits default values. Begins with a quote in `key`.
    pub(super) fn string(&mut self, key: &str, parts: &[&str]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length == 0 {
            return;
        }
        self.plain_string(key, parts);
        // Few strings need escapes, which is seen soonest when they are in one piece.
        let begin = self.0.len() - 1 - length;
        if needs_escapes(&self.0[begin..begin + length]) {
            self.0.truncate(begin);
            let escaped = serde_json::Value::from(parts.concat()).to_string();
            self.0.extend_from_slice(&escaped.as_bytes()[1..]);
        }
    }

    pub(super) fn number(&mut self, key: &str, number: u32) {
        if number != 0 {
            self.value(key, itoa::Buffer::new().format(number));
        }
    }

    /// A time of the years 0 to 9999 in RFC 3339, with as many groups of three digits as the fraction needs. Takes a sixth of chrono's time.
    /// Begins with a quote in `key`.
    pub(super) fn timestamp(&mut self, key: &str, time: Option<Timestamp>) {
        let Some(time) = time.filter(|time| YEARS_0_TO_9999.contains(&time.seconds)) else {
            return;
        };
        let second = (time.seconds - YEARS_0_TO_9999.start).unsigned_abs();
        let (year, month, day) = date(second / 86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000Z\"";
        let numbers = [
            year / 100,
            year % 100,
            month,
            day,
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
        ];
        for (at, number) in [0, 2, 5, 8, 11, 14, 17].into_iter().zip(numbers) {
            text[at] = b'0' + (number / 10 % 10) as u8;
            text[at + 1] = b'0' + (number % 10) as u8;
        }
        let mut fraction = time.nanos.unsigned_abs();
        if fraction > 0 {
            for digit in text[20..29].iter_mut().rev() {
                *digit = b'0' + (fraction % 10) as u8;
                fraction /= 10;
            }
        }
        let length = match time.nanos {
            0 => 19,
            nanos if nanos % 1_000_000 == 0 => 23,
            nanos if nanos % 1_000 == 0 => 26,
            _ => 29,
        };
        text[length] = b'Z';
        text[length + 1] = b'"';
        self.value(key, "");
        self.0.extend_from_slice(&text[..length + 2]);
    }

    pub(super) fn value(&mut self, key: &str, value: &str) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }
}

/// In seconds since 1970.
const YEARS_0_TO_9999: Range<i64> = -62_167_219_200..253_402_300_800;

/// The year, month and day of a day, counted from 0000-01-01 in the proleptic Gregorian calendar.
///
/// Counted from March on, a leap day is the last day of its year, and the months' lengths repeat every five months, of 153 days.
fn date(day: u64) -> (u64, u64, u64) {
    const FOUR_YEARS: u64 = 1461;
    const CENTURY: u64 = 36_524;
    const FOUR_CENTURIES: u64 = 146_097;
    const JANUARY_AND_FEBRUARY: u64 = 60;

    // From March of the year -400 on.
    let day = day + FOUR_CENTURIES - JANUARY_AND_FEBRUARY;
    let (centuries, day) = (day / FOUR_CENTURIES * 4, day % FOUR_CENTURIES);
    let year = (day - day / (FOUR_YEARS - 1) + day / CENTURY - day / (FOUR_CENTURIES - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (next, month) = if month < 10 {
        (0, month + 3)
    } else {
        (1, month - 9)
    };
    (100 * centuries + year + next - 400, month, day)
}

/// Whether a JSON string with this text has escapes. Checks all bytes, eight at once, which is faster than stopping at the first match.
fn needs_escapes(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = 0x80 * ONES;
    // The high bit of a byte is set if the byte is below a limit. A false match only follows a true one in the byte before.
    let below = |bytes: u64, limit: u8| bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes;
    let escapes = |bytes: [u8; 8]| {
        let bytes = u64::from_ne_bytes(bytes);
        let is = |byte: u8| below(bytes ^ (ONES * u64::from(byte)), 1);
        (below(bytes, b' ') | is(b'"') | is(b'\\')) & HIGH
    };
    let (chunks, rest) = text.as_chunks();
    let found = chunks.iter().fold(0, |found, chunk| found | escapes(*chunk));
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    found | escapes(last) != 0
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike as _, SecondsFormat};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_day_has_its_date() {
        for day in 0..3_652_425_u32 {
            let seconds = YEARS_0_TO_9999.start + 86_400 * i64::from(day);
            let expected = DateTime::from_timestamp(seconds, 0).expect("a date");
            let year = u64::try_from(expected.year()).expect("a year from 0 on");
            assert_eq!(
                date(day.into()),
                (year, expected.month().into(), expected.day().into())
            );
        }
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_chrono_writes_it(
            seconds in YEARS_0_TO_9999,
            nanos in prop_oneof![Just(0), (0..1000_u32).prop_map(|n| n * 1_000_000), 0..1_000_000_000_u32],
        ) {
            let mut json = JsonWriter::default();
            json.timestamp("\"", Some(Timestamp { seconds, nanos: nanos.cast_signed() }));
            let time = DateTime::from_timestamp(seconds, nanos).expect("a time");
            let expected = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            prop_assert_eq!(String::from_utf8(json.0), Ok(format!(",\"{expected}\"")));
        }

        #[test]
        fn escapes_are_found(text in "[ -~\t\u{80}-\u{7ff}\"\\\\]{0,40}|[a-z\u{80}-\u{ffff}]{0,40}") {
            let escaped = serde_json::Value::from(text.as_str()).to_string();
            prop_assert_eq!(needs_escapes(text.as_bytes()), escaped.len() > text.len() + 2);
        }
    }
}
