//! `plaque config`: checks a file of settings.

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgAction, Command, FromArgMatches as _, Subcommand};

use super::{Cli, InvalidFlags, Outcome, clap_error, file, flags, parse, show, shown};

/// Checks a file with settings for `plaque serve --config`
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Says what is wrong in a file, with lines and keys; or that it is valid, and what it sets other than the defaults
    ///
    /// Only the file is read: neither the environment, nor the files that it names. Exits with 2 if something is wrong.
    Check {
        /// The file
        #[arg(env = "PLAQUE_CONFIG", required = true)]
        file: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Outcome {
    let Action::Check { file } = &args.action;
    let (entries, mistakes) = file::read(file);
    if !mistakes.is_empty() {
        return Ok(parse::explain(parse::Refused::File(mistakes), false));
    }
    let program = flags::program()
        .mut_args(flags::without_environment)
        .mut_subcommand("serve", |serve| serve.mut_args(flags::without_environment));
    let arguments = ["plaque", "serve"].into_iter().map(str::to_owned);
    let arguments = arguments.chain(entries.iter().flat_map(file::Entry::arguments));
    let name = file.display();
    let wrong = |what: String| InvalidFlags(format!("{name}: {what}"));
    let matches = program.clone().try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    let parsed = parsed.map_err(|error| wrong(clap_error::message(error)))?;
    if let super::Command::Serve(args) = parsed.command {
        args.check().map_err(wrong)?;
    }
    show::line(&format!("{name}: ok"))?;
    for entry in &entries {
        if let Some(line) = difference(&program, entry) {
            show::line(&format!("  {line}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What an entry sets, if that is not the default.
fn difference(program: &Command, entry: &file::Entry) -> Option<String> {
    let flag = flags::named(program.find_subcommand("serve")?, &entry.name)?;
    if entry.arguments().is_empty() {
        return None;
    }
    let default = flags::default_of(flag);
    let set = match flag.get_action() {
        ArgAction::SetTrue => "true".to_owned(),
        // An address with a password.
        _ if flag.is_hide_env_values_set() => "(not shown)".into(),
        _ => {
            let values = entry.values.iter().map(|value| shown::without_secrets(value));
            show::given(&values.collect::<Vec<_>>().join(", "))
        }
    };
    (set != default).then(|| match (default.as_str(), flag.get_action()) {
        ("" | "false", _) => format!("{} = {set}", entry.name),
        _ => format!("{} = {set} (default: {default})", entry.name),
    })
}
