//! Settings as they are shown to people: without secrets.

use clap::{ArgAction, ArgMatches, Command};

use super::flags;

/// The names and values of the flags of `command` that differ from the defaults, wherever they were set. Without what can be secret.
pub(super) fn settings(command: &Command, flags: &ArgMatches) -> Vec<(String, String)> {
    let settings = command.get_arguments().filter_map(|flag| {
        let (name, id) = (flag.get_long()?, flag.get_id().as_str());
        let given = if matches!(flag.get_action(), ArgAction::SetTrue) {
            // In the environment it may be another word.
            flags.get_flag(id).to_string()
        } else {
            let given = flags.try_get_raw(id).ok()??;
            given
                .map(|value| value.to_string_lossy())
                .collect::<Vec<_>>()
                .join(",")
        };
        let default = flags::default_of(flag);
        // A flag without a value, as clap counts it.
        let is_default = given == default || default.is_empty() && given == "false";
        (!is_default).then(|| (format!("--{name}"), without_secrets(&given)))
    });
    settings.collect()
}

/// An address may have a user, a password and, in its query, a key. Hides what can be one of these, and rather too much.
pub(super) fn without_secrets(value: &str) -> String {
    let start = value.find("://").map_or(0, |end| end + "://".len());
    let (scheme, rest) = value.split_at(start);
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((address, _)) => format!("{scheme}{address}?…"),
        None => format!("{scheme}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn shown(args: &[&str]) -> Vec<(String, String)> {
        let args = ["plaque", "serve"].iter().chain(args);
        let matches = Cli::command().try_get_matches_from(args).expect("flags");
        let (name, flags) = matches.subcommand().expect("serve");
        settings(Cli::command().find_subcommand(name).expect("serve"), flags)
    }

    #[test]
    fn what_differs_from_the_defaults_is_shown_without_secrets() {
        let flags = [
            "--fresh-for=5m",
            "--stale-if-error=7d",
            "--grpc-web",
            "--store=redis://me:p@ss?w@rd@cache:7000/3",
            "--upstream-proxy=http://user:secret@proxy:3128",
            "--fallback-upstream=https://a.example/feed?key=secret,https://me:secret@b.example/feed",
        ];
        let expected = [
            ("--fresh-for", "5m"),
            ("--grpc-web", "true"),
            ("--store", "redis://…@cache:7000/3"),
            ("--upstream-proxy", "http://…@proxy:3128"),
            ("--fallback-upstream", "https://…@b.example/feed"),
        ];
        let mut shown = shown(&flags);
        shown.sort();
        let mut expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        expected.sort();
        assert_eq!(shown, expected);
    }

    #[test]
    fn nothing_is_shown_of_a_server_without_flags() {
        assert_eq!(shown(&[]), []);
        assert_eq!(
            without_secrets("https://a.example/feed?key=1"),
            "https://a.example/feed?…"
        );
        assert_eq!(without_secrets("plaque=debug,h2=warn"), "plaque=debug,h2=warn");
    }
}
