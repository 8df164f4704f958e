//! `docs/flags.md`: all commands and flags, from the same texts as `--help`.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _, builder::PossibleValue};

use super::{Cli, flags, notes};

const INTRODUCTION: &str = "# Flags

Generated from the texts of `plaque --help` (`PLAQUE_WRITE_FLAGS=1 cargo test --test it flags_page`); do not edit.

Each flag can also be set by an environment variable, named below, and those of `plaque serve` in a file (`--config FILE`, TOML): the name \
without the dashes, as in `fresh-for = \"30s\"`. The command line comes before the environment, the environment before the file. In \
the environment, a flag without a value takes `true` or `false`, also as `yes` and `no`, `on` and `off`, or `1` and `0`. `--color auto`, `always` or `never` (`PLAQUE_COLOR`) is a flag \
of every command.
";

/// The page, in Markdown.
#[must_use]
pub fn flags_page() -> String {
    let mut program = flags::program().disable_help_subcommand(true);
    program.build();
    let mut page = INTRODUCTION.to_owned();
    // As in the help: `program` has them in another order.
    let order = Cli::command();
    let commands = order
        .get_subcommands()
        .filter_map(|command| program.find_subcommand(command.get_name()));
    for command in commands {
        add_command(&mut page, command);
        command
            .get_subcommands()
            .for_each(|nested| add_command(&mut page, nested));
    }
    page
}

// Writing to a String does not fail.
fn add_command(page: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or_default();
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n## {name}\n\n{}\n", text(&about));
    for positional in command.get_positionals() {
        let id = positional.get_value_names().and_then(|names| names.first());
        let id = id.map_or("", |id| id.as_str());
        let _ = write!(page, "\n- `{id}`: {}\n", text(&help(positional)));
    }
    let shown = |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version" | "color");
    let flags = command.get_arguments().filter(|arg| !arg.is_positional());
    let mut flags: Vec<&Arg> = flags.filter(shown).collect();
    let mut headings: Vec<_> = vec![];
    for heading in flags.iter().map(|flag| flag.get_help_heading()) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    // Stable: as in the help.
    flags.sort_by_key(|flag| flag.get_display_order());
    for heading in headings {
        let title = heading.unwrap_or("Options");
        let _ = write!(
            page,
            "\n### {title} of {name}\n\n| flag | default | environment | what it does |\n| --- | --- | --- | --- |\n"
        );
        for flag in flags.iter().filter(|flag| flag.get_help_heading() == heading) {
            add_flag(page, flag);
        }
    }
    for (title, lines) in notes::of(command.get_name())
        .iter()
        .flat_map(|notes| notes.sections())
    {
        let _ = write!(page, "\n### {title} of {name}\n\n");
        for (term, said) in lines {
            let _ = match (title, *term) {
                ("Examples", what) => writeln!(page, "- {what}: `{said}`"),
                (_, "") => writeln!(page, "\n{said}"),
                _ => writeln!(page, "- `{term}`: {said}"),
            };
        }
    }
}

fn add_flag(page: &mut String, flag: &Arg) {
    let short = flag
        .get_short()
        .map_or_else(String::new, |short| format!("`-{short}`, "));
    let long = flag.get_long().unwrap_or_default();
    let takes_value = !matches!(flag.get_action(), ArgAction::SetTrue);
    let names = flag.get_value_names().filter(|_| takes_value).unwrap_or_default();
    let value = names.first().map_or_else(String::new, |name| format!(" {name}"));
    let default = match flags::default_of(flag) {
        none if none.is_empty() || !takes_value => String::new(),
        default => format!("`{default}`"),
    };
    let variable = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let possible = flag.get_possible_values();
    let mut help = help(flag);
    if takes_value && !possible.is_empty() {
        let values: Vec<_> = possible.iter().map(PossibleValue::get_name).collect();
        let _ = write!(help, ": {}", values.join(", "));
    }
    let help = text(&help).replace('|', "\\|");
    let _ = writeln!(
        page,
        "| {short}`--{long}{value}` | {default} | `{variable}` | {help} |"
    );
}

fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    help.map(ToString::to_string).unwrap_or_default()
}

/// A help text as Markdown: what would be taken for HTML, emphasis or a link is not.
fn text(help: &str) -> String {
    let help = help.replace("\n  ", "\n- ").replace(":\n- ", ":\n\n- ");
    let mut text = String::with_capacity(help.len());
    for c in help.chars() {
        if matches!(c, '<' | '*' | '_' | '[') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}
