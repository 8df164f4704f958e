//! Texts from outside in what is logged, made harmless. An upstream's words or a caller's header are data: they break no line, turn no
//! line around and steer no terminal, in any format; and they are no longer than a person reads.
//!
//! The formats do not see to it: of what tracing-subscriber writes ESC and C1 do nothing, but lines break; its JSON has U+2028 and C1 as they are,
//! and tracing-tree has everything.

use std::{
    borrow::Cow,
    error::Error,
    fmt::{self, Write as _},
};

use tracing::{
    Metadata, Value,
    field::{self, Field, ValueSet, Visit},
};

use crate::video::steers;

/// The most fields that an event or a span has, of those that the macros make.
const MOST_FIELDS: usize = 32;

/// The bytes of a text that are logged. Whatever plaque itself says is shorter; a store may say 512 MiB.
const LONGEST: usize = 4 << 10;

/// A text as far as it is logged, and its whole length.
#[derive(Default)]
struct Shown {
    text: String,
    length: usize,
}

impl fmt::Write for Shown {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nothing more after the first that was cut.
        if self.text.len() == self.length {
            let room = LONGEST.saturating_sub(self.length);
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
        }
        self.length += text.len();
        Ok(())
    }
}

impl Shown {
    fn of(value: fmt::Arguments<'_>) -> Self {
        let mut shown = Self::default();
        // It does not fail, and what a value's own code does is its own.
        let _ = shown.write_fmt(value);
        shown
    }

    /// As it is logged.
    fn harmless(&self) -> String {
        let text = escape(&self.text);
        if self.text.len() == self.length {
            text.into_owned()
        } else {
            format!("{text}… ({} bytes)", self.length)
        }
    }
}

/// `text` with `\n`, `\u{1b}` or `\u{202e}` where it has such a character.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// The values of an event or a span as they may be logged. None if they may be as they are, which is nearly always.
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

/// Looks for a character to escape, and for a text that is too long.
struct Search {
    found: bool,
    /// Of the value that is being looked at.
    length: usize,
}

impl Search {
    fn look_at(&mut self, value: fmt::Arguments<'_>) {
        self.length = 0;
        // It does not fail, and what a value's own code does is its own.
        let _ = self.write_fmt(value);
    }
}

impl fmt::Write for Search {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.length += text.len();
        self.found |= self.length > LONGEST || text.contains(steers);
        Ok(())
    }
}

impl Visit for Search {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.look_at(format_args!("{value:?}"));
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        self.look_at(format_args!("{value}"));
    }

    /// The formats tell its causes, too.
    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        let mut cause = Some(value);
        while let Some(error) = cause {
            self.look_at(format_args!("{error}"));
            cause = error.source();
        }
    }
}

/// Values with their texts escaped.
pub(super) struct Values(Vec<(Field, Box<dyn Value>)>);

impl Values {
    fn push(&mut self, field: &Field, value: impl Value + 'static) {
        self.0.push((field.clone(), Box::new(value)));
    }

    /// Hands them on, as values of what `metadata` tells of.
    pub(super) fn with(&self, metadata: &'static Metadata<'static>, use_them: impl FnOnce(&ValueSet<'_>)) {
        let Some((any, _)) = self.0.first() else {
            return;
        };
        let values: [(&Field, Option<&dyn Value>); MOST_FIELDS] =
            std::array::from_fn(|place| match self.0.get(place) {
                Some((field, value)) => (field, Some(&**value)),
                None => (any, None),
            });
        use_them(&metadata.fields().value_set(&values));
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = Shown::of(format_args!("{value:?}"));
        self.push(field, field::display(shown.harmless()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Shown::of(format_args!("{value}")).harmless());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }
}
