//! Texts from outside in what is logged, made harmless. An upstream's words or a caller's header are data: they break no line, turn no
//! line around and steer no terminal, in any format.
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

/// `text` with `\n`, `\u{1b}` or `\u{202e}` where it has such a character.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
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
    let mut search = Search { found: false };
    record(&mut search);
    search.found.then(|| {
        let mut values = Values(Vec::new());
        record(&mut values);
        values
    })
}

/// Looks for a character to escape.
struct Search {
    found: bool,
}

impl fmt::Write for Search {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.found |= text.contains(steers);
        Ok(())
    }
}

impl Visit for Search {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // It does not fail, and what a value's own code does is its own.
        let _ = write!(self, "{value:?}");
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        self.found |= value.contains(steers);
    }

    /// The formats tell its causes, too.
    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        let mut cause = Some(value);
        while let Some(error) = cause {
            let _ = write!(self, "{error}");
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
        let shown = format!("{value:?}");
        self.push(field, field::display(escape(&shown).into_owned()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, escape(value).into_owned());
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
