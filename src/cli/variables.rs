//! Environment variables that look like settings and are none.

use std::{
    env,
    ffi::{OsStr, OsString},
    net::{IpAddr, SocketAddr},
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
    names
        .filter_map(|(name, value)| complaint(&name.into_string().ok()?, &value.to_string_lossy(), &known))
        .collect()
}

/// All variables that plaque reads, those of other subcommands, too: an environment is often that of all.
fn known(program: &Command) -> Vec<String> {
    let all = flags::all(program);
    all.filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect()
}

fn complaint(name: &str, value: &str, known: &[String]) -> Option<String> {
    if !name.starts_with(PREFIX) || known.iter().any(|known| known == name) || is_service_link(name, value) {
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

/// Kubernetes tells each container where the services are: for one called plaque, PLAQUE_SERVICE_HOST=10.0.0.1,
/// PLAQUE_PORT_3779_TCP=tcp://10.0.0.1:3779 and others.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_address = || value.parse::<IpAddr>().is_ok();
    let is_port = || value.parse::<u16>().is_ok();
    if name.contains("_SERVICE_PORT") {
        return is_port();
    }
    if name.ends_with("_SERVICE_HOST") {
        return is_address();
    }
    ["tcp", "udp", "sctp"].into_iter().any(|protocol| {
        let url = value
            .strip_prefix(protocol)
            .and_then(|rest| rest.strip_prefix("://"));
        let is_url = url.is_some_and(|address| address.parse::<SocketAddr>().is_ok());
        match name.rsplit_once(&format!("_{}", protocol.to_uppercase())) {
            Some((_, "")) => is_url,
            Some((_, "_PROTO")) => value == protocol,
            Some((_, "_PORT")) => is_port(),
            Some((_, "_ADDR")) => is_address(),
            _ => is_url && name.ends_with("_PORT"),
        }
    })
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

    /// What Kubernetes sets for two services, plaque and plaque-admin.
    const LINKS: &[(&str, &str)] = &[
        ("PLAQUE_SERVICE_HOST", "10.0.0.1"),
        ("PLAQUE_SERVICE_PORT", "3779"),
        ("PLAQUE_SERVICE_PORT_GRPC", "3779"),
        ("PLAQUE_PORT", "tcp://10.0.0.1:3779"),
        ("PLAQUE_PORT_3779_TCP", "tcp://10.0.0.1:3779"),
        ("PLAQUE_PORT_3779_TCP_PROTO", "tcp"),
        ("PLAQUE_PORT_3779_TCP_PORT", "3779"),
        ("PLAQUE_PORT_3779_TCP_ADDR", "10.0.0.1"),
        ("PLAQUE_ADMIN_SERVICE_HOST", "fd00::1"),
        ("PLAQUE_ADMIN_PORT", "tcp://[fd00::1]:3780"),
        ("PLAQUE_DNS_PORT", "udp://10.0.0.9:53"),
        ("PLAQUE_DNS_PORT_53_UDP", "udp://10.0.0.9:53"),
        ("PLAQUE_DNS_PORT_53_UDP_PROTO", "udp"),
    ];

    #[test]
    fn a_variable_that_is_no_setting_is_told_with_the_closest_one() {
        let known = known(&flags::program());
        let said = complaint("PLAQUE_FRESHFOR", "1s", &known).expect("no setting");
        assert!(
            said.contains("PLAQUE_FRESHFOR") && said.ends_with("is it PLAQUE_FRESH_FOR?"),
            "{said}"
        );
        for (strange, value) in [
            ("PLAQUE_plaque", ""),
            ("PLAQUE_", ""),
            ("PLAQUE_HTTP", "tcp://10.0.0.1:80"),
            ("PLAQUE_PORT", "8080"),
            ("PLAQUE_PORT", "tcp://localhost:8080"),
            ("PLAQUE_SERVICE_HOST", "localhost"),
            ("PLAQUE_SERVICE_PORT", "grpc"),
        ] {
            let said = complaint(strange, value, &known).expect("no setting");
            assert!(said.contains("no setting of plaque"), "{said}");
        }
        for fine in [
            "PATH",
            "PLAQUE",
            "PLAQUE_FRESH_FOR",
            "PLAQUE_SERVER",
            "PLAQUE_COLOR",
            "PLAQUE_CONFIG",
        ] {
            assert_eq!(complaint(fine, "", &known), None, "{fine}");
        }
        for (link, value) in LINKS {
            assert_eq!(complaint(link, value, &known), None, "{link}");
        }
    }

    #[test]
    fn no_setting_looks_like_a_service_link() {
        for name in known(&flags::program()) {
            let mut values = LINKS.iter().map(|(_, value)| value);
            assert!(!values.any(|value| is_service_link(&name, value)), "{name}");
        }
    }
}
