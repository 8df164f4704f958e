//! Environment variables that look like settings and are none.

use std::env;

use clap::Command;

/// Below this, two names have nothing to do with each other: clap's own limit for suggestions.
const SIMILAR: f64 = 0.7;

/// What to say of the variables of this process that are no settings of `program`.
pub(super) fn unknown(program: &Command) -> Vec<String> {
    let known = known(program);
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| complaint(&name, &known)).collect()
}

/// All variables that plaque reads, those of other subcommands, too: an environment is often that of all.
fn known(program: &Command) -> Vec<String> {
    let args = program.get_subcommands().flat_map(Command::get_arguments);
    let all = program.get_arguments().chain(args);
    all.filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect()
}

fn complaint(name: &str, known: &[String]) -> Option<String> {
    if !name.starts_with("PLAQUE_") || known.iter().any(|known| known == name) || is_service_link(name) {
        return None;
    }
    let name = super::show::given(name);
    Some(match closest(&name, known.iter().map(String::as_str)) {
        Some(close) => format!("the environment has {name}, which is no setting of plaque; is it {close}?"),
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
