//! The command line: parses, sets up, calls, and tells a person what went wrong.

mod client;
mod completions;
mod demo;
mod get;
mod man;
mod serve;
mod show;
mod values;
mod watch;

use std::{error::Error, io, process::ExitCode};

use clap::{Parser, Subcommand};

/// What a subcommand ends with. A message for a person is all that is left to do with an error up here.
type Outcome = Result<ExitCode, Box<dyn Error>>;

/// What did this YouTube channel upload last?
///
/// A gRPC service that answers it for everybody who asks at once with one upstream lookup, and goes on answering when YouTube's
/// feed fails. Every flag can also be set in the environment: --fresh-for is PLAQUE_FRESH_FOR.
#[derive(Parser)]
#[command(name = "plaque", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Get(get::Args),
    Watch(watch::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program: parses the arguments, does what they say, and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => client::block_on(get::run(args)),
        Command::Watch(args) => client::block_on(watch::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        // A pipe that nobody reads any more (`plaque get … | head -1`) is the reader's choice, and no error of ours.
        let closed_pipe = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if closed_pipe {
            return ExitCode::SUCCESS;
        }
        // Nothing can be done if standard error is gone too.
        let _ = show::complain(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_help_text() {
        for command in Cli::command().get_subcommands() {
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
