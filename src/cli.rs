//! The command line: parses arguments, runs a subcommand, and prints errors for people.

mod client;
mod completions;
mod demo;
mod direct;
mod get;
mod list;
mod man;
mod pem;
mod serve;
mod show;
mod shown;
mod sources;
mod values;
mod watch;

use std::{env, error::Error, io, process::ExitCode};

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// The result of a subcommand. At this level an error only needs a message for a person.
type Outcome = Result<ExitCode, Box<dyn Error>>;

/// A flag is well-formed but cannot work. The exit code is that of a malformed one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct InvalidFlags(String);

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
    Get(Box<get::Args>),
    List(Box<list::Args>),
    Watch(watch::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program: parses the arguments, runs the subcommand, and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let cli = parse().unwrap_or_else(|error| without_passwords(error).exit());
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => client::block_on(get::run(*args)),
        Command::List(args) => client::block_on(list::run(*args)),
        Command::Watch(args) => client::block_on(watch::run(args)),
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
        // If standard error is closed too, nothing can be done.
        let _ = show::print_error(&format!("error: {error}"));
        if error.is::<InvalidFlags>() {
            ExitCode::from(2)
        } else {
            ExitCode::FAILURE
        }
    })
}

/// Parses the arguments, and checks what clap cannot: which flags of a client go together.
fn parse() -> Result<Cli, clap::Error> {
    let mut program = Cli::command();
    let arguments = program.try_get_matches_from_mut(env::args_os())?;
    if let Some((name, flags)) = arguments.subcommand()
        && let Some(command) = program.find_subcommand_mut(name)
    {
        let checked = direct::check(command, flags);
        checked.map_err(|message| command.error(ErrorKind::ArgumentConflict, message))?;
    }
    let mut cli = Cli::from_arg_matches(&arguments)?;
    if let (Command::Serve(args), Some((name, flags))) = (&mut cli.command, arguments.subcommand())
        && let Some(command) = Cli::command().find_subcommand(name)
    {
        args.shown = shown::settings(command, flags);
    }
    Ok(cli)
}

/// clap repeats the given value in its errors. Removes passwords from addresses.
fn without_passwords(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(given)) = error.get(kind)
            && let Some(shown) = without_password(given)
        {
            error.insert(kind, ContextValue::String(shown));
        }
    }
    error
}

fn without_password(address: &str) -> Option<String> {
    let (before, host) = address.rsplit_once('@')?;
    let scheme = before.find("://").map_or(0, |end| end + "://".len());
    let (scheme, secret) = before.split_at(scheme);
    secret.contains(':').then(|| format!("{scheme}…@{host}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, without_password};

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (address, shown) in [
            ("redsi://me:secret@cache:7000/3", Some("redsi://…@cache:7000/3")),
            (
                "rediss-cluster://:sec@ret@one,two",
                Some("rediss-cluster://…@one,two"),
            ),
            ("me:secret@cache", Some("…@cache")),
            ("redis://me@cache", None),
            ("redis://cache:6379", None),
            ("@somebody", None),
        ] {
            assert_eq!(without_password(address).as_deref(), shown, "{address}");
        }
    }

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
