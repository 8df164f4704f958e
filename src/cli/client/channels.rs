//! The channels that a command asks about: arguments, and the lines of standard input.

use std::{
    io::{self, BufRead, Read as _},
    str::FromStr,
};

use crate::{
    cli::show,
    video::{ChannelName, InvalidName},
};

/// The longest input that is read, in bytes: 160,000 IDs.
const MAX_INPUT: u64 = 4 << 20;

/// One argument.
#[derive(Clone)]
pub(super) enum Channels {
    /// A channel.
    Named(ChannelName),
    /// `-`: those that standard input names.
    Input,
}

impl FromStr for Channels {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "-" => Ok(Self::Input),
            name => name.parse().map(Self::Named),
        }
    }
}

/// The channels of all arguments, in their order.
pub(super) fn all(arguments: &[Channels]) -> Result<Vec<ChannelName>, String> {
    let mut names = vec![];
    for argument in arguments {
        match argument {
            Channels::Named(name) => names.push(name.clone()),
            Channels::Input => read(io::stdin().lock(), &mut names)?,
        }
    }
    Ok(names)
}

/// Adds the channels of `input`, one a line. Blank lines and those that begin with # are skipped.
fn read(input: impl BufRead, names: &mut Vec<ChannelName>) -> Result<(), String> {
    let mut input = input.take(MAX_INPUT + 1);
    let outcome = read_lines(input.by_ref().lines(), names);
    if input.limit() == 0 {
        return Err("standard input has more than 4 MiB; ask about fewer channels at a time".into());
    }
    outcome
}

fn read_lines(
    lines: impl Iterator<Item = io::Result<String>>,
    names: &mut Vec<ChannelName>,
) -> Result<(), String> {
    for (number, line) in lines.enumerate() {
        let number = number + 1;
        let line = line.map_err(|error| format!("line {number} of standard input: {error}"))?;
        // A byte order mark is no blank; Windows' editors write one.
        let text = line.trim_start_matches('\u{feff}').trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let name = text.parse().map_err(|error: InvalidName| {
            let given = show::given(text);
            format!("line {number} of standard input: invalid value '{given}': {error}")
        });
        names.push(name?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_standard_input_names_a_channel() {
        let read = |text: &str| {
            let mut names = vec![];
            read(text.as_bytes(), &mut names).map(|()| names)
        };
        let names = read("\u{feff}# mine\n\n  @kurzgesagt \r\nhttps://www.youtube.com/c/scishow#about\n")
            .expect("names");
        let shown: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["@kurzgesagt", "c/scishow"]);
        let error = read("@kurzgesagt\n\nhttps://vimeo.com/x").expect_err("not YouTube's");
        assert!(
            error.starts_with("line 3 of standard input: invalid value 'https://vimeo.com/x'"),
            "{error}"
        );
    }

    #[test]
    fn standard_input_has_a_limit() {
        let input = |length| io::repeat(b'#').take(length);
        let read = |length| read(io::BufReader::new(input(length)), &mut vec![]);
        assert_eq!(read(MAX_INPUT), Ok(()));
        let error = read(MAX_INPUT + 1).expect_err("too long");
        assert!(error.contains("more than 4 MiB"), "{error}");
    }
}
