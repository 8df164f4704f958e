//! Escapes and truncates texts from outside in events and spans. What an upstream or a caller sends must not break a line, reverse its
//! direction or control a terminal, in any format, and is no longer than a person reads.
//!
//! The formats do not ensure that: tracing-subscriber escapes ESC and C1, but not line breaks; its JSON does not escape U+2028 and C1;
//! tracing-tree escapes nothing.

use std::{
    error::Error,
    fmt::{self, Write as _},
};

use tracing::{
    Metadata, Value,
    field::{self, Field, ValueSet, Visit},
};

use crate::video::{escape, steers};

/// The most fields of an event or span that the macros create.
const MAX_FIELDS: usize = 32;

/// The longest text that is logged, in bytes. plaque's own are shorter; a store could send 512 MiB.
const MAX_LENGTH: usize = 4 << 10;

/// The beginning of a text, and its whole length.
#[derive(Default)]
struct Shown {
    text: String,
    length: usize,
}

impl fmt::Write for Shown {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nothing after the first part that was cut.
        if self.text.len() == self.length {
            let room = MAX_LENGTH.saturating_sub(self.length);
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
        }
        self.length += text.len();
        Ok(())
    }
}

impl Shown {
    fn of(value: fmt::Arguments<'_>) -> Self {
        let mut shown = Self::default();
        // `Shown` does not fail; errors of a value's own formatting are ignored.
        let _ = shown.write_fmt(value);
        shown
    }

    /// Escaped, with a note if it is truncated.
    fn escaped_text(&self) -> String {
        let text = escape(&self.text);
        if self.text.len() == self.length {
            text.into_owned()
        } else {
            format!("{text}… ({} bytes)", self.length)
        }
    }
}

/// The escaped values of an event or span. `None`, usually, if there is nothing to escape.
pub(super) fn escaped(record: impl Fn(&mut dyn Visit)) -> Option<Values> {
    let mut search = Search {
        found: false,
        length: 0,
    };
    record(&mut search);
    search.found.then(|| {
        let mut values = Values(Vec::new());
        record(&mut values);
        values
    })
}

/// Searches for a character to escape, or a text that is too long.
struct Search {
    found: bool,
    length: usize,
}

impl Search {
    fn scan(&mut self, value: fmt::Arguments<'_>) {
        self.length = 0;
        // `Search` only fails to end early; errors of a value's own formatting are ignored.
        let _ = self.write_fmt(value);
    }
}

impl fmt::Write for Search {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.length += text.len();
        self.found |= self.length > MAX_LENGTH || text.contains(steers);
        Ok(())
    }
}

impl Visit for Search {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.scan(format_args!("{value:?}"));
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        self.scan(format_args!("{value}"));
    }

    /// The formats also print its causes.
    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        let mut cause = Some(value);
        while let Some(error) = cause {
            self.scan(format_args!("{error}"));
            cause = error.source();
        }
    }
}

pub(super) struct Values(Vec<(Field, Box<dyn Value>)>);

impl Values {
    fn push(&mut self, field: &Field, value: impl Value + 'static) {
        self.0.push((field.clone(), Box::new(value)));
    }

    /// Calls `use_them` with the values, as a set for `metadata`.
    pub(super) fn with(&self, metadata: &'static Metadata<'static>, use_them: impl FnOnce(&ValueSet<'_>)) {
        let Some((any, _)) = self.0.first() else {
            return;
        };
        let values: [(&Field, Option<&dyn Value>); MAX_FIELDS] =
            std::array::from_fn(|place| match self.0.get(place) {
                Some((field, value)) => (field, Some(&**value)),
                None => (any, None),
            });
        use_them(&metadata.fields().value_set(&values));
    }
}

/// Methods of [`Visit`] for values that need no escapes.
macro_rules! unchanged {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(&mut self, field: &Field, value: $type) {
            self.push(field, value);
        })*
    };
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = Shown::of(format_args!("{value:?}"));
        self.push(field, field::display(shown.escaped_text()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Shown::of(format_args!("{value}")).escaped_text());
    }

    unchanged!(record_f64: f64, record_i64: i64, record_u64: u64);
    unchanged!(record_i128: i128, record_u128: u128, record_bool: bool);
}
