//! The command line: parses arguments, runs a subcommand, and prints errors for people.

mod clap_error;
mod client;
mod completions;
mod config;
mod demo;
mod direct;
mod exit;
mod file;
mod flags;
mod get;
mod health;
mod list;
mod man;
mod notes;
mod parse;
mod pem;
mod reference;
mod serve;
mod show;
mod shown;
mod sources;
mod values;
mod variables;
mod watch;

use std::{error::Error, io, process::ExitCode};

use anstream::ColorChoice;
use clap::{Parser, Subcommand, ValueEnum};

pub use self::reference::flags_page;

/// The result of a subcommand. At this level an error only needs a message for a person.
type Outcome = Result<ExitCode, Box<dyn Error>>;

/// A flag is well-formed but cannot work. The exit code is that of a malformed one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct InvalidFlags(String);

/// What did this YouTube channel upload last?
///
/// A gRPC service that answers it for everybody who asks at once with one upstream lookup, and goes on answering when YouTube's
/// feed fails. Every flag can also be set in the environment: --fresh-for is PLAQUE_FRESH_FOR; and those of serve in a file (--config).
#[derive(Parser)]
#[command(name = "plaque", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// When to use colors
    #[arg(
        long,
        global = true,
        env = "PLAQUE_COLOR",
        default_value = "auto",
        value_name = "WHEN"
    )]
    color: Color,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl Color {
    fn choice(self) -> ColorChoice {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Get(Box<get::Args>),
    List(Box<list::Args>),
    Watch(watch::Args),
    Health(health::Args),
    Config(config::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program: parses the arguments, runs the subcommand, and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let mut given = parse::arguments();
    let cli = match parse::parse(&mut given) {
        Ok(cli) => cli,
        Err(refused) => return parse::explain(refused, parse::is_json(&given)),
    };
    let is_json = matches!(&cli.command, Command::Serve(args) if args.logs_json());
    // `serve` logs them. Probes run `health` often, and the others have no settings.
    if matches!(
        &cli.command,
        Command::Get(_) | Command::List(_) | Command::Watch(_)
    ) {
        for unknown in variables::unknown(&flags::program()) {
            show::print_error(&format!("warning: {unknown}"));
        }
    }
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => client::block_on(get::run(*args)),
        Command::List(args) => client::block_on(list::run(*args)),
        Command::Watch(args) => client::block_on(watch::run(args)),
        Command::Health(args) => client::block_on(health::run(args)),
        Command::Config(args) => config::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        // If the reader of a pipe ends early (`plaque get … | head -1`), that is not an error.
        let closed_pipe = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if closed_pipe {
            return ExitCode::SUCCESS;
        }
        if is_json {
            show::json_error(&error.to_string());
        } else {
            show::print_error(&format!("error: {error}"));
        }
        exit::code(&*error)
    })
}

#[cfg(test)]
mod tests {
    use super::flags::program;

    #[test]
    fn the_command_line_is_sound() {
        program().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_help_text() {
        for command in program().get_subcommands() {
            for flag in command.get_opts() {
                let name = flag.get_long().unwrap_or_default();
                let expected = format!("PLAQUE_{}", name.to_uppercase().replace('-', "_"));
                let variable = flag.get_env().and_then(|variable| variable.to_str());
                assert_eq!(variable, Some(expected.as_str()), "--{name}");
                assert!(flag.get_help().is_some(), "--{name}");
            }
        }
    }
}
