//! `plaque man`: manual pages, generated from the texts of `--help`.

use std::{
    io::{self, Write as _},
    iter,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, Outcome};

/// Prints the manual page plaque(1), or writes all of them into a folder
///
/// To read it: plaque man | man -l -
/// To install: mkdir -p ~/.local/share/man/man1 && plaque man ~/.local/share/man/man1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Write plaque.1 there, and a page for each subcommand: plaque-serve.1, plaque-get.1, …
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    // The pages replace the `help` subcommand. Built, subcommands know their full names.
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let page =
        |command: &Command| Man::new(command.clone()).source(concat!("plaque ", env!("CARGO_PKG_VERSION")));
    if let Some(folder) = &args.folder {
        for command in iter::once(&program).chain(program.get_subcommands()) {
            page(command).generate_to(folder).map_err(|error| {
                let folder = folder.display();
                format!(
                    "cannot write manual pages into {folder}: {error}; name a folder that exists and is yours"
                )
            })?;
        }
    } else {
        let mut text = Vec::new();
        page(&program).render(&mut text)?;
        io::stdout().write_all(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
