//! clap's errors, as they can be printed.

use clap::error::{ContextKind, ContextValue};

use super::show;

/// clap repeats the given value in its errors. Removes passwords from addresses, escapes what would control the terminal, and cuts the rest.
pub(super) fn harmless(mut error: clap::Error) -> clap::Error {
    for kind in [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ] {
        if let Some(ContextValue::String(given)) = error.get(kind) {
            let shown = without_password(given);
            let shown = show::given(shown.as_deref().unwrap_or(given));
            error.insert(kind, ContextValue::String(shown));
        }
    }
    error
}

/// The message of an error on one line, without the advice after it.
pub(super) fn message(error: clap::Error) -> String {
    let text = harmless(error).render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let part = text.split("\n\n").next().unwrap_or_default();
    show::given_line(&part.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn without_password(address: &str) -> Option<String> {
    let (before, host) = address.rsplit_once('@')?;
    let scheme = before.find("://").map_or(0, |end| end + "://".len());
    let (scheme, secret) = before.split_at(scheme);
    secret.contains(':').then(|| format!("{scheme}…@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
