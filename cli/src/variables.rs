//! `FLUMEN_…` variables that nothing reads: a slip in the name of one would go unnoticed, and the
//! default hold.

use std::{collections::BTreeSet, env, ffi::OsString};

use anstream::eprintln;
use clap::Command;

use crate::{arguments::Arguments, hint::similar};

/// What the names of all variables begin with.
const PREFIX: &str = "FLUMEN_";

/// What the variables of the developer's commands, which run this one, begin with.
const OF_DEVELOPERS: [&str; 6] = [
    "FLUMEN_BENCH_DIR",
    "FLUMEN_GUESTS_",
    "FLUMEN_SIMULATE_",
    "FLUMEN_SIMULATION_",
    "FLUMEN_TEST_",
    "FLUMEN_UPDATE_",
];

/// Warns of variables that no command knows.
pub(crate) fn warn_of_unknown() {
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let all = env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    let set: Vec<_> = all.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    if set.is_empty() {
        return;
    }
    let known = known(&Arguments::program());
    for (name, value) in &set {
        if let Some(warning) = warning(name, value, &known) {
            eprintln!("warning: {warning}");
        }
    }
}

fn warning(name: &str, value: &str, known: &BTreeSet<String>) -> Option<String> {
    let is_of_developers = || OF_DEVELOPERS.iter().any(|other| name.starts_with(other));
    if known.contains(name) || is_of_developers() || is_service_link(name, value) {
        return None;
    }
    let meant = match similar(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    };
    Some(format!(
        "the variable {name} is set, and no command reads it{meant}"
    ))
}

/// Whether Kubernetes sets the variable in every container, because there is a service whose name
/// begins with flumen.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") {
        return true;
    }
    if let Some((_, port)) = name.split_once("_SERVICE_PORT")
        && (port.is_empty() || port.starts_with('_'))
    {
        return true;
    }
    if name.ends_with("_PORT") && value.contains("://") {
        return true;
    }
    // Such as FLUMEN_PORT_4650_UDP_ADDR.
    name.match_indices("_PORT_").any(|(at, infix)| {
        let port = &name[at + infix.len()..];
        let mut parts = port.split('_');
        let is_number = |part: &str| part.parse::<u16>().is_ok();
        parts.next().is_some_and(is_number) && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    })
}

/// The variables of all commands.
fn known(command: &Command) -> BTreeSet<String> {
    let of_flags = command.get_arguments().filter_map(clap::Arg::get_env);
    let names = of_flags.map(|name| name.to_string_lossy().into_owned());
    let below = command.get_subcommands().flat_map(known);
    names.chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_named_with_the_variable_that_was_meant() {
        let known = known(&Arguments::program());
        let warning = |name| warning(name, "4700", &known);
        let said = warning("FLUMEN_WAL_SYNCH").unwrap();
        assert!(said.contains("did you mean FLUMEN_WAL_SYNC?"), "{said}");
        assert!(warning("FLUMEN_XYZZY").unwrap().ends_with("reads it"));
        for read in [
            "FLUMEN_WAL_SYNC",
            "FLUMEN_PROFILE",
            "FLUMEN_JOIN",
            "FLUMEN_LOG",
            "FLUMEN_BENCH_DIR",
            "FLUMEN_SIMULATION_SEED",
            "FLUMEN_UPDATE_SCHEMA",
        ] {
            assert_eq!(warning(read), None);
        }
    }

    #[test]
    fn links_to_services_of_kubernetes_are_no_slips() {
        let known = known(&Arguments::program());
        for (name, value) in [
            ("FLUMEN_SERVICE_HOST", "10.0.0.1"),
            ("FLUMEN_SERVICE_PORT", "4650"),
            ("FLUMEN_SERVICE_PORT_CLIENTS", "4650"),
            ("FLUMEN_PORT", "udp://10.0.0.1:4650"),
            ("FLUMEN_PORT_4650_UDP", "udp://10.0.0.1:4650"),
            ("FLUMEN_PORT_4650_UDP_ADDR", "10.0.0.1"),
            ("FLUMEN_BROKERS_SERVICE_HOST", "10.0.0.1"),
            ("FLUMEN_BROKERS_PORT", "tcp://10.0.0.1:9650"),
            ("FLUMEN_BROKERS_PORT_9650_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(warning(name, value, &known), None);
        }
        for (name, value) in [
            ("FLUMEN_PORT", "4700"),
            ("FLUMEN_BROKERS_PORT", "4700"),
            ("FLUMEN_SERVICE_PORTS", "4700"),
            ("FLUMEN_PORT_ADMIN", "4700"),
        ] {
            assert!(warning(name, value, &known).is_some(), "{name}={value}");
        }
    }
}
