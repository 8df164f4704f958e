//! What the fields of the subcommands do not say themselves: headings, the short help, and the notes at the end of the help.

use std::env;

use clap::{
    Arg, ArgAction, Command, CommandFactory as _,
    builder::{BoolishValueParser, Resettable},
};

use super::{Cli, notes};

/// A heading, the flags under it that `-h` shows with a short text, and those that only `--help` shows.
type Group = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

/// The flags of `plaque serve`, in the order of the help.
const SERVE: &[Group] = &[
    (
        "Listening",
        &[
            ("listen", "The address for gRPC"),
            (
                "admin-listen",
                "The address of the status page, metrics and probes",
            ),
            ("http-listen", "The address for JSON over HTTP/1.1"),
            ("grpc-web", "Also serve gRPC-Web, for pages in browsers"),
        ],
        &["admin-host", "http-allow-origin", "grpc-web-origins"],
    ),
    (
        "Freshness",
        &[
            ("fresh-for", "The maximum age of an answer without a lookup"),
            (
                "stale-while-revalidate",
                "How much longer, while a lookup revalidates it",
            ),
            ("stale-if-error", "The maximum age of an answer when lookups fail"),
        ],
        &["negative-for", "min-refetch", "canary"],
    ),
    (
        "Upstream",
        &[
            ("upstream-rate", "The most lookups a second"),
            ("upstream-proxy", "A proxy for lookups"),
            ("fallback-upstream", "Another server with the same feeds"),
        ],
        &[
            "upstream",
            "youtube-pages",
            "upstream-timeout",
            "upstream-concurrency",
            "upstream-queue",
            "max-queue-wait",
            "upstream-ca",
            "upstream-user-agent",
            "upstream-ip",
        ],
    ),
    (
        "Data API",
        &[("youtube-api-key-file", "A key for the YouTube Data API")],
        &["youtube-api", "youtube-api-quota"],
    ),
    (
        "Store",
        &[
            ("cache-bytes", "The memory for cached channels"),
            ("store", "file:PATH or redis://HOST: outlives a restart"),
        ],
        &["store-bytes", "store-prefix", "store-timeout", "store-ca"],
    ),
    (
        "Watches",
        &[("watch-every", "How often a watched channel is polled")],
        &["watch-at-most", "max-watched", "max-watch"],
    ),
    (
        "Limits",
        &[
            ("workers", "Serving threads"),
            ("max-calls", "The most calls in progress"),
            ("max-connections", "The most open connections"),
        ],
        &[
            "http-max-connections",
            "max-waiters",
            "max-deadline",
            "caller-header",
            "max-message-bytes",
            "max-header-bytes",
            "max-streams",
            "preface-timeout",
            "idle-timeout",
            "keepalive",
            "max-connection-age",
        ],
    ),
    (
        "TLS",
        &[
            ("tls-cert", "The certificate, in PEM; turns TLS on"),
            ("tls-key", "Its key, in PEM"),
            ("tls-client-ca", "The authorities of client certificates"),
        ],
        &[],
    ),
    (
        "Stopping",
        &[("drain-timeout", "How long calls may take after SIGTERM")],
        &["drain-delay"],
    ),
    (
        "Logs and traces",
        &[
            ("log", "off, error, warn, info, debug, trace, or directives"),
            ("log-format", "pretty, tree or json"),
            ("otlp-endpoint", "The OpenTelemetry collector for traces"),
        ],
        &["trace-chrome"],
    ),
];

/// The flags of all clients that are about the connection.
const SERVER: &str = "Server";

/// The whole command line, as it is parsed, completed and documented.
pub(super) fn program() -> Command {
    let mut program = notes::add(Cli::command()).mut_subcommand("serve", |serve| {
        serve.mut_args(|arg| match arg.get_long().and_then(place) {
            Some((place, heading, short)) => under(arg, heading, short).display_order(place),
            None => arg,
        })
    });
    // The environment sets switches, too, and others write such values than true and false.
    program = program.mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        })
    });
    for name in ["get", "list", "watch", "health"] {
        program = program.mut_subcommand(name, |client| {
            client.mut_args(|arg| match (arg.get_long(), arg.get_help_heading()) {
                // The rest of --direct is as in `serve`.
                (Some(long), Some(_)) => {
                    let is_rare = !["store", "fresh-for", "youtube-api-key-file"].contains(&long);
                    arg.hide_short_help(is_rare)
                }
                (Some("server" | "timeout"), _) => arg.help_heading(SERVER),
                (Some(long), _) if long.starts_with("tls-") => arg.help_heading(SERVER).hide_short_help(true),
                _ => arg,
            })
        });
    }
    program
}

/// The place of a flag of `plaque serve`, its heading, and its short text if it has one.
fn place(flag: &str) -> Option<(usize, &'static str, Option<&'static str>)> {
    let all = SERVE.iter().flat_map(|(heading, common, rare)| {
        let common = common.iter().map(|(name, short)| (*name, *heading, Some(*short)));
        common.chain(rare.iter().map(|name| (*name, *heading, None)))
    });
    let (place, found) = all.enumerate().find(|(_, (name, ..))| *name == flag)?;
    Some((place, found.1, found.2))
}

fn under(arg: Arg, heading: &'static str, short: Option<&'static str>) -> Arg {
    let arg = arg.help_heading(heading).hide_short_help(short.is_none());
    match (short, arg.get_help().cloned()) {
        (Some(short), Some(long)) => arg.long_help(long).help(short),
        _ => arg,
    }
}

/// The same for `-h`, without what only `--help` has room for.
pub(super) fn briefly(program: Command) -> Command {
    let brief = |arg: Arg| {
        let has_value = arg.get_action().takes_values();
        arg.hide_env(true).hide_possible_values(has_value)
    };
    program
        .mut_args(brief)
        .mut_subcommands(|command| command.mut_args(brief))
}

/// The flag of a command that has this name.
pub(super) fn named<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(name))
}

/// The flags of the program and of its subcommands.
pub(super) fn all(program: &Command) -> impl Iterator<Item = &Arg> {
    let flags = program.get_subcommands().flat_map(Command::get_arguments);
    program.get_arguments().chain(flags)
}

/// The default of a flag as it would be given; empty if it has none.
pub(super) fn default_of(flag: &Arg) -> String {
    let values = flag.get_default_values().iter();
    values
        .map(|value| value.to_string_lossy())
        .collect::<Vec<_>>()
        .join(",")
}

/// Makes flags whose variable is empty read none: Docker Compose sets such variables for `${X:-}`, which means that they are not set.
pub(super) fn without_empty_variables(program: Command) -> Command {
    program
        .mut_args(|arg| match arg.get_env() {
            Some(name) if env::var_os(name).is_some_and(|value| value.is_empty()) => without_environment(arg),
            _ => arg,
        })
        .mut_subcommands(without_empty_variables)
}

/// A flag that reads no environment variable.
pub(super) fn without_environment(arg: Arg) -> Arg {
    arg.env(Resettable::Reset)
}
