//! `FLUMEN_…` variables that nothing reads: a slip in the name of one would go unnoticed, and the
//! default hold.

use std::{collections::BTreeSet, env};

use anstream::eprintln;
use clap::Command;

use crate::{arguments::Arguments, hint::similar};

/// What the names of all variables begin with.
const PREFIX: &str = "FLUMEN_";

/// Variables of the developer's commands, which run this one, and of Kubernetes, which tells every
/// container of a service called flumen.
const OF_OTHERS: [&str; 6] = [
    "FLUMEN_GUESTS_",
    "FLUMEN_PORT",
    "FLUMEN_SERVICE_",
    "FLUMEN_SIMULATE_",
    "FLUMEN_TEST_",
    "FLUMEN_UPDATE_DOCS",
];

/// Warns of variables that no command knows.
pub(crate) fn warn_of_unknown() {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let set: Vec<_> = names.filter(|name| name.starts_with(PREFIX)).collect();
    if set.is_empty() {
        return;
    }
    let known = known(&Arguments::program());
    for name in &set {
        if let Some(warning) = warning(name, &known) {
            eprintln!("warning: {warning}");
        }
    }
}

fn warning(name: &str, known: &BTreeSet<String>) -> Option<String> {
    if known.contains(name) || OF_OTHERS.iter().any(|other| name.starts_with(other)) {
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
        let warning = |name| warning(name, &known);
        let said = warning("FLUMEN_WAL_SYNCH").unwrap();
        assert!(said.contains("did you mean FLUMEN_WAL_SYNC?"), "{said}");
        assert!(warning("FLUMEN_XYZZY").unwrap().ends_with("reads it"));
        for read in [
            "FLUMEN_WAL_SYNC",
            "FLUMEN_PROFILE",
            "FLUMEN_JOIN",
            "FLUMEN_LOG",
            "FLUMEN_PORT_4650_UDP",
            "FLUMEN_SERVICE_HOST",
        ] {
            assert_eq!(warning(read), None);
        }
    }
}
