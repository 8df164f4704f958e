//! `plaque completions`: completion scripts for shells.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap_complete::Shell;

use super::{Outcome, flags};

/// Prints the completions for a shell
///
/// Put them where the shell looks for them:
///   bash: plaque completions bash > ~/.local/share/bash-completion/completions/plaque
///   zsh:  plaque completions zsh > DIR/_plaque, where DIR is a folder in $fpath
///   fish: plaque completions fish > ~/.config/fish/completions/plaque.fish
///   elvish: plaque completions elvish >> ~/.config/elvish/rc.elv
///   powershell: plaque completions powershell >> $PROFILE
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(hide_possible_values = true)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Outcome {
    // clap_complete would panic if the reader of a pipe has ended.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut flags::program(), "plaque", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
