//! Environment variables that look like settings and are none.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use clap::Command;

use super::flags;

const PREFIX: &str = "PLAQUE_";

/// Below this, two names have nothing to do with each other: clap's own limit for suggestions.
const SIMILAR: f64 = 0.7;

/// The value of a variable. One that is empty counts as not set.
pub(super) fn value(name: impl AsRef<OsStr>) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// What to say of the variables of this process that are no settings of `program`.
pub(super) fn unknown(program: &Command) -> Vec<String> {
    let known = known(program);
    let names = env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = names.filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| complaint(&name, &known)).collect()
}

/// All variables that plaque reads, those of other subcommands, too: an environment is often that of all.
fn known(program: &Command) -> Vec<String> {
    let all = flags::all(program);
    all.filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect()
}

fn complaint(name: &str, known: &[String]) -> Option<String> {
    if !name.starts_with(PREFIX) || known.iter().any(|known| known == name) || is_service_link(name) {
        return None;
    }
    let name = super::show::given(name);
    let close = closest(
        &name[PREFIX.len()..],
        known.iter().filter_map(|known| known.strip_prefix(PREFIX)),
    );
    Some(match close {
        Some(close) => {
            format!("the environment has {name}, which is no setting of plaque; is it {PREFIX}{close}?")
        }
        None => format!("the environment has {name}, which is no setting of plaque"),
    })
}

/// Kubernetes tells each container where the services are: for one called plaque, PLAQUE_SERVICE_HOST, PLAQUE_PORT_3779_TCP and others.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

/// The name in `known` that is most like `name`, if any is.
pub(super) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similar = known.map(|known| (strsim::jaro(name, known), known));
    let similar = similar.filter(|(similarity, _)| *similarity > SIMILAR);
    similar
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags;

    #[test]
    fn a_variable_that_is_no_setting_is_told_with_the_closest_one() {
        let known = known(&flags::program());
        let said = complaint("PLAQUE_FRESHFOR", &known).expect("no setting");
        assert!(
            said.contains("PLAQUE_FRESHFOR") && said.ends_with("is it PLAQUE_FRESH_FOR?"),
            "{said}"
        );
        for strange in ["PLAQUE_plaque", "PLAQUE_"] {
            let said = complaint(strange, &known).expect("no setting");
            assert!(said.ends_with("no setting of plaque"), "{said}");
        }
        for fine in [
            "PATH",
            "PLAQUE",
            "PLAQUE_FRESH_FOR",
            "PLAQUE_SERVER",
            "PLAQUE_COLOR",
            "PLAQUE_CONFIG",
            "PLAQUE_SERVICE_HOST",
            "PLAQUE_SERVICE_PORT_GRPC",
            "PLAQUE_PORT",
            "PLAQUE_PORT_3779_TCP_ADDR",
            "PLAQUE_ADMIN_SERVICE_HOST",
        ] {
            assert_eq!(complaint(fine, &known), None, "{fine}");
        }
    }

    #[test]
    fn no_setting_looks_like_a_service_link() {
        for name in known(&flags::program()) {
            assert!(!is_service_link(&name), "{name}");
        }
    }
}
