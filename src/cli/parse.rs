//! From arguments, environment and file to a command; and what is printed if there is none.

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anstream::ColorChoice;
use clap::{
    Arg, ArgMatches, Command, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{Cli, clap_error, direct, exit::Exit, file, flags, show, shown, variables};

/// Why there is nothing to run.
pub(super) enum Refused {
    /// The command line is wrong, or asks for help.
    Arguments(clap::Error),
    /// The file of --config is wrong: its mistakes.
    File(Vec<String>),
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        Self::Arguments(error)
    }
}

/// The arguments of this process.
pub(super) fn arguments() -> Vec<OsString> {
    env::args_os().collect()
}

/// Parses `given`, to which it adds the settings of a file, and checks what clap cannot: which flags of a client go together.
pub(super) fn parse(given: &mut Vec<OsString>) -> Result<Cli, Refused> {
    if let Some(color) = value_of(given, "--color").and_then(|color| color_choice(&color)) {
        color.write_global();
    }
    let mut program = flags::without_empty_variables(flags::program());
    if given.iter().any(|argument| argument == "-h") {
        program = flags::briefly(program);
    }
    let (from_file, mistakes) = from_file(&program, given);
    given.extend(from_file.into_iter().map(OsString::from));
    if !mistakes.is_empty() {
        return Err(Refused::File(mistakes));
    }
    let matches = program
        .try_get_matches_from_mut(&*given)
        .map_err(|error| of_variable(error, &program, given))?;
    if let Some((name, flags)) = matches.subcommand()
        && let Some(command) = program.find_subcommand_mut(name)
    {
        let checked = direct::check(command, flags);
        checked.map_err(|message| command.error(ErrorKind::ArgumentConflict, message))?;
    }
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (super::Command::Serve(args), Some((name, flags))) = (&mut cli.command, matches.subcommand())
        && let Some(command) = program.find_subcommand(name)
    {
        args.shown = shown::settings(command, flags);
    }
    cli.color.choice().write_global();
    Ok(cli)
}

/// The arguments that the file of --config stands for, without those that are given by flags or variables; and its mistakes.
fn from_file(program: &Command, given: &[OsString]) -> (Vec<String>, Vec<String>) {
    if !given.iter().any(|argument| argument == "serve") {
        return Default::default();
    }
    // Mistakes are told later, with the rest.
    let tolerant = program.clone().ignore_errors(true).try_get_matches_from(given);
    let Ok(matches) = tolerant else {
        return Default::default();
    };
    let Some(("serve", serve)) = matches.subcommand() else {
        return Default::default();
    };
    // A wrong flag ends the parsing: the file may follow it, and says in which form it is told.
    let named = serve.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let Some(path) = named
        .or_else(|| value_of(given, "--config").map(PathBuf::from))
        .or_else(|| variables::value("PLAQUE_CONFIG").map(PathBuf::from))
    else {
        return Default::default();
    };
    let (entries, mistakes) = file::read(&path);
    let left = entries
        .iter()
        .filter(|entry| !is_given(program, serve, &entry.name));
    (left.flat_map(file::Entry::arguments).collect(), mistakes)
}

fn is_given(program: &Command, serve: &ArgMatches, name: &str) -> bool {
    let command = program.find_subcommand("serve");
    let flag = command.and_then(|serve| flags::named(serve, name));
    let source = flag
        .map(Arg::get_id)
        .and_then(|id| serve.value_source(id.as_str()));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Names the variable beside its flag, if that has the wrong value.
fn of_variable(mut error: clap::Error, program: &Command, given: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let is_given = |flag: &str| {
        let mut words = given.iter().filter_map(|word| word.to_str()?.strip_prefix(flag));
        words.any(|rest| rest.is_empty() || rest.starts_with('='))
    };
    // As in `--timeout <DURATION>`.
    let long = wrong.split(' ').next().unwrap_or_default();
    let variable = flags::all(program).find_map(|flag| {
        let is_it = long.strip_prefix("--") == Some(flag.get_long()?) && !is_given(long);
        let name = flag.get_env()?.to_str()?;
        (is_it && variables::value(name).is_some()).then(|| format!("{wrong}, set by {name}"))
    });
    if let Some(variable) = variable {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

/// The value of a flag, before anything is parsed.
fn value_of(given: &[OsString], flag: &str) -> Option<String> {
    let mut given = given.iter().map(|argument| argument.to_string_lossy());
    given
        .find_map(|argument| Some(argument.strip_prefix(flag)?.to_owned()))
        .and_then(|rest| match rest.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            None if rest.is_empty() => given.next().map(Into::into),
            None => None,
        })
}

fn color_choice(text: &str) -> Option<ColorChoice> {
    let color = <super::Color as clap::ValueEnum>::from_str(text, false);
    Some(color.ok()?.choice())
}

/// Whether the log of the command is to be JSON, and so its errors: also if it cannot be parsed. `given` has the settings of the file.
pub(super) fn is_json(given: &[OsString]) -> bool {
    let variable = || env::var("PLAQUE_LOG_FORMAT").ok();
    given.get(1).is_some_and(|command| command == "serve")
        && value_of(given, "--log-format").or_else(variable).as_deref() == Some("json")
}

/// Prints why there is nothing to run, or the help that was asked for. Returns the exit code.
pub(super) fn explain(refused: Refused, json: bool) -> ExitCode {
    let mistakes = match refused {
        Refused::File(mistakes) if json => mistakes,
        Refused::File(mistakes) => vec![format!("error: {}", mistakes.join("\n"))],
        Refused::Arguments(error) if !error.use_stderr() => error.exit(),
        Refused::Arguments(error) if json => vec![clap_error::message(error)],
        Refused::Arguments(error) => {
            let error = clap_error::harmless(error);
            let text = error.render().to_string();
            if show::is_harmless(&text) {
                error.exit();
            }
            vec![text]
        }
    };
    for text in mistakes {
        if json {
            show::json_error(&text);
        } else {
            let lines: Vec<_> = text.lines().map(show::given_line).collect();
            // If standard error is closed, nothing can be done.
            let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
        }
    }
    Exit::Usage.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_log_is_known_without_parsing() {
        let is_json = |words: &str| is_json(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(is_json("plaque serve --log-format json"));
        assert!(is_json("plaque serve --oops --log-format=json --log"));
        assert!(!is_json("plaque serve --log-format pretty"));
        assert!(!is_json("plaque get --log-format json"));
        assert!(!is_json("plaque serve --log-format"));
    }
}
