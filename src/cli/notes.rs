//! What the help and the manual pages say beyond flags: exit codes, environment, examples.

use std::fmt::Write as _;

use clap::Command;

/// Notes on a subcommand, each with what it is about.
pub(super) struct Notes {
    pub(super) exit: &'static [(&'static str, &'static str)],
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// A command, after what it does.
    pub(super) examples: &'static [(&'static str, &'static str)],
}

const CLIENT_EXIT: &[(&str, &str)] = &[
    ("0", "every channel was answered"),
    (
        "1",
        "another failure, such as http at a port that answers with TLS, or a lookup that panicked",
    ),
    (
        "2",
        "the command line, a file that it names, a channel or a request is invalid",
    ),
    ("3", "a channel was not found, or has no uploads of this kind"),
    (
        "75",
        "try again later: the server or YouTube is unreachable or overloaded, or the time limit has passed",
    ),
    (
        "",
        "With several channels the first of 2, 1, 75, 3 and 0 that applies to one of them.",
    ),
];

const VARIABLES: &[(&str, &str)] = &[
    (
        "PLAQUE_…",
        "every flag: --server is PLAQUE_SERVER; a flag on the command line comes first; an empty variable counts as not set",
    ),
    ("NO_COLOR", "not empty: no colors, unless --color says so"),
];

const GET: Notes = Notes {
    exit: CLIENT_EXIT,
    environment: VARIABLES,
    examples: &[
        ("the newest upload of a channel", "plaque get @kurzgesagt"),
        (
            "of each channel in a file, one a line",
            "plaque get - < channels.txt",
        ),
        (
            "without a server, remembering answers",
            "plaque get --direct --store file:answers @kurzgesagt",
        ),
        (
            "the addresses alone",
            "plaque get @kurzgesagt @scishow | cut -f 5",
        ),
    ],
};

const LIST: Notes = Notes {
    exit: CLIENT_EXIT,
    environment: VARIABLES,
    examples: &[
        ("the newest three uploads", "plaque list -n 3 @kurzgesagt"),
        (
            "the titles of the newest Shorts",
            "plaque list --kind short @kurzgesagt | cut -f 6",
        ),
    ],
};

const WATCH: Notes = Notes {
    exit: &[(
        "1, 2, 3, 75",
        "as of plaque get: a watch ends only if it cannot begin, or if the server refuses it",
    )],
    environment: VARIABLES,
    examples: &[
        (
            "print uploads as they appear",
            "plaque watch @kurzgesagt @scishow",
        ),
        (
            "open each in a browser",
            "plaque watch @kurzgesagt | cut -f 5 | xargs -n 1 xdg-open",
        ),
    ],
};

const HEALTH: Notes = Notes {
    exit: &[
        ("0", "the service is serving"),
        ("1", "it is not, or it cannot be asked"),
        ("2", "the command line is invalid, or a file that it names"),
    ],
    environment: &[],
    examples: &[
        ("in a Dockerfile", "HEALTHCHECK CMD [\"/plaque\", \"health\"]"),
        (
            "another server, with TLS",
            "plaque health --server https://plaque.example.org",
        ),
    ],
};

const SERVE: Notes = Notes {
    exit: &[
        ("0", "SIGTERM or Ctrl-C stopped it, and every call was finished"),
        (
            "1",
            "it cannot start, or calls were cut off after --drain-timeout",
        ),
        ("2", "a setting is invalid, or a file that it names"),
    ],
    environment: &[("RUST_LOG", "what to log, if neither --log nor PLAQUE_LOG says")],
    examples: &[
        ("on this machine", "plaque serve"),
        (
            "for others, with answers that outlive a restart",
            "plaque serve --listen 0.0.0.0:3779 --store file:/var/lib/plaque/store",
        ),
        (
            "with settings from a file",
            "plaque config check plaque.toml && plaque serve --config plaque.toml",
        ),
    ],
};

const PROGRAM: Notes = Notes {
    exit: &[],
    environment: VARIABLES,
    examples: &[
        ("see what it does, without a network", "plaque demo"),
        ("serve, and ask", "plaque serve & plaque get @kurzgesagt"),
        ("print uploads as they appear", "plaque watch @kurzgesagt"),
    ],
};

/// The notes on a subcommand, or on the program.
pub(super) fn of(name: &str) -> Option<&'static Notes> {
    Some(match name {
        "plaque" => &PROGRAM,
        "get" => &GET,
        "list" => &LIST,
        "watch" => &WATCH,
        "health" => &HEALTH,
        "serve" => &SERVE,
        _ => return None,
    })
}

impl Notes {
    /// Its sections, each with a title and lines of a term and a text.
    pub(super) fn sections(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static [(&'static str, &'static str)])> {
        let sections = [
            ("Exit status", self.exit),
            ("Environment", self.environment),
            ("Examples", self.examples),
        ];
        sections.into_iter().filter(|(_, lines)| !lines.is_empty())
    }
}

/// Adds the notes to the end of `--help`.
pub(super) fn add(program: Command) -> Command {
    let program = program.after_long_help(text(&PROGRAM));
    ["serve", "get", "list", "watch", "health"]
        .into_iter()
        .fold(program, |program, name| {
            program.mut_subcommand(name, |command| match of(name) {
                Some(notes) => command.after_long_help(text(notes)),
                None => command,
            })
        })
}

fn text(notes: &Notes) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    for (title, lines) in notes.sections() {
        let separator = if text.is_empty() { "" } else { "\n\n" };
        let _ = write!(text, "{separator}{title}:");
        for (term, said) in lines {
            let _ = match (title, *term) {
                ("Examples", what) => write!(text, "\n  # {what}\n  {said}"),
                (_, "") => write!(text, "\n  {said}"),
                _ => write!(text, "\n  {term}: {said}"),
            };
        }
    }
    text
}
