//! `plaque man`: manual pages, generated from the texts of `--help`.

use std::{
    fs,
    io::{self, Write as _},
    iter,
    path::PathBuf,
    process::ExitCode,
};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{InvalidFlags, Outcome, flags, notes};

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
    // The pages replace the `help` subcommand. What -h leaves out has no text in them. Built, subcommands know their full names.
    let whole = |command: Command| command.mut_args(|arg| arg.hide_short_help(false));
    let program = whole(flags::program()).disable_help_subcommand(true);
    let mut program = program.mut_subcommands(|command| whole(command).mut_subcommands(whole));
    program.build();
    if let Some(folder) = &args.folder {
        let nested = program.get_subcommands().flat_map(Command::get_subcommands);
        for command in iter::once(&program)
            .chain(program.get_subcommands())
            .chain(nested)
        {
            let (name, page) = page(command)?;
            fs::write(folder.join(name), page).map_err(|error| {
                let folder = folder.display();
                InvalidFlags(format!(
                    "cannot write manual pages into {folder}: {error}; name a folder that exists and is yours"
                ))
            })?;
        }
    } else {
        io::stdout().write_all(&page(&program)?.1)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of a command, and the name of its file.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    // Its notes become sections.
    let man = Man::new(command.clone().after_long_help(None::<&str>));
    let man = man.source(concat!("plaque ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut sections = Roff::new();
    for (title, lines) in notes::of(command.get_name())
        .iter()
        .flat_map(|notes| notes.sections())
    {
        sections.control("SH", [title.to_uppercase().as_str()]);
        for (term, said) in lines {
            if term.is_empty() {
                sections.control("PP", []);
            } else {
                sections.control("TP", []);
                sections.text([if title == "Examples" {
                    roman(*term)
                } else {
                    bold(*term)
                }]);
            }
            sections.text([if title == "Examples" {
                bold(*said)
            } else {
                roman(*said)
            }]);
        }
    }
    sections.to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}
