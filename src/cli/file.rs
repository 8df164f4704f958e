//! The file of `plaque serve --config`: TOML whose keys are the names of flags. Each entry becomes an argument, so that there is one parser
//! for values and one place that knows the flags.

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use clap::{Arg, ArgAction, Command, error::ErrorKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{clap_error, flags, variables};

/// The longest file that is read.
const MAX_BYTES: u64 = 256 << 10;

/// A setting of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name of the flag.
    pub(super) name: String,
    /// One value, several for a flag that may be repeated; none for a switch.
    pub(super) values: Vec<String>,
    /// Whether it is set: a switch may be `false`.
    is_set: bool,
}

impl Entry {
    /// The arguments that say the same.
    pub(super) fn arguments(&self) -> Vec<String> {
        let Self { name, values, is_set } = self;
        match values.as_slice() {
            [] if *is_set => vec![format!("--{name}")],
            values => values.iter().map(|value| format!("--{name}={value}")).collect(),
        }
    }
}

/// Reads the valid settings of a file, and says what is wrong with each of the others.
pub(super) fn read(file: &Path) -> (Vec<Entry>, Vec<String>) {
    let name = file.display();
    match read_bounded(file) {
        Ok(text) => {
            let (entries, wrong) = entries(&text);
            let wrong = wrong.iter().map(|(line, what)| format!("{name}:{line}: {what}"));
            (entries, wrong.collect())
        }
        Err(error) => (vec![], vec![format!("cannot read {name}: {error}")]),
    }
}

fn read_bounded(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it has more than 256 KiB"));
    }
    Ok(text)
}

/// The valid settings in `text`, and what is wrong in which lines. Of mistakes in the syntax only the first, since others may follow from it.
fn entries(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let line = |start: usize| 1 + text[..start].matches('\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    let serve = serve();
    let mut found: Vec<_> = table.get_ref().iter().collect();
    found.sort_by_key(|(key, _)| key.span().start);
    let (mut entries, mut wrong) = (vec![], vec![]);
    for (key, value) in found {
        match entry(&serve, key.get_ref(), value) {
            Ok(entry) => entries.push(entry),
            Err(what) => wrong.push((line(key.span().start), what)),
        }
    }
    if let Some(error) = errors.first() {
        // Its own text would show the line, which may have a password.
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        wrong = vec![(line(text.floor_char_boundary(start)), error.message().to_owned())];
    }
    (entries, wrong)
}

/// The command whose flags the file may set, without what the environment says.
fn serve() -> Command {
    let program = flags::program();
    let serve = program.find_subcommand("serve").cloned().unwrap_or_default();
    serve.mut_args(flags::without_environment)
}

/// The flags that a file may set.
fn settings(serve: &Command) -> impl Iterator<Item = &Arg> {
    let flags = serve.get_arguments().filter(|arg| !arg.is_positional());
    flags.filter(|arg| arg.get_long() != Some("config"))
}

fn entry(serve: &Command, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Entry, String> {
    let Some(arg) = settings(serve).find(|arg| arg.get_long() == Some(key)) else {
        let known = settings(serve).filter_map(Arg::get_long);
        let closest =
            variables::closest(key, known).map_or_else(String::new, |known| format!("; is it {known}?"));
        return Err(format!("{}: no such setting{closest}", super::show::given(key)));
    };
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let (values, is_set) = match value.get_ref() {
        DeValue::Boolean(is_set) if is_switch => (vec![], *is_set),
        _ if is_switch => return Err(format!("{key}: expected true or false")),
        DeValue::Array(several) if matches!(arg.get_action(), ArgAction::Append) => {
            let values = several.iter().map(|value| scalar(value.get_ref()));
            let values: Option<Vec<_>> = values.collect();
            let values = values.ok_or_else(|| format!("{key}: expected texts in the array"))?;
            let is_set = !values.is_empty();
            (values, is_set)
        }
        value => {
            let one = scalar(value);
            (
                vec![one.ok_or_else(|| format!("{key}: expected a text or a number"))?],
                true,
            )
        }
    };
    let entry = Entry {
        name: key.into(),
        values,
        is_set,
    };
    let arguments = ["serve".to_owned()].into_iter().chain(entry.arguments());
    match serve.clone().try_get_matches_from(arguments) {
        // Another setting, or a flag, may have what it requires.
        Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => {
            Err(format!("{key}: {}", clap_error::message(error)))
        }
        _ => Ok(entry),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}
