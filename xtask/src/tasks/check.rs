//! Everything that can be said about the code without running it.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::shell::{self, cargo, command, skipped, step, succeeds, target_dir};

/// The version of cargo-deny that is installed when there is none.
const CARGO_DENY_VERSION: &str = "^0.20";

/// What can be checked on any machine. Advisories need their database from the network.
const DENY_CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Do not install cargo-deny when it is missing, and skip its checks
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    step("formatting");
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    for workspace in super::guests::workspaces() {
        shell::run(
            cargo()
                .args(["fmt", "--all", "--check", "--manifest-path"])
                .arg(workspace.join("Cargo.toml")),
        )?;
    }
    step("lints");
    // The second time as users build it: without what only tests ask of the broker.
    for targets in [&["--all-targets"][..], &[]] {
        shell::run(
            cargo()
                .args(["clippy", "--workspace", "--locked"])
                .args(targets)
                .args(["--", "-D", "warnings"]),
        )?;
    }
    step("documentation");
    shell::run(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--locked",
    ]))?;
    step("dependencies: bans, licences, sources, advisories");
    let Some(deny) = cargo_deny(!arguments.no_install) else {
        skipped("bans, licences, sources and advisories: there is no cargo-deny");
        return Ok(());
    };
    shell::run(check(&deny).args(DENY_CHECKS))?;
    if succeeds(command(&deny).args(["--all-features", "fetch", "db"])) {
        shell::run(check(&deny).args(["--disable-fetch", "advisories"]))
    } else {
        skipped("advisories: their database cannot be fetched from here");
        Ok(())
    }
}

fn check(deny: &PathBuf) -> Command {
    let mut check = command(deny);
    check.args(["--all-features", "--locked", "check"]);
    check
}

/// The program, installed among the build's own files if need be.
fn cargo_deny(may_install: bool) -> Option<PathBuf> {
    let tools = target_dir().join("tools");
    let installed = [PathBuf::from("cargo-deny"), tools.join("bin/cargo-deny")];
    let found = |program: &PathBuf| succeeds(command(program).arg("--version"));
    if let Some(program) = installed.iter().find(|program| found(program)) {
        return Some(program.clone());
    }
    if !may_install {
        return None;
    }
    eprintln!("cargo-deny is not installed; building it, which takes a few minutes once");
    let install = shell::run(
        cargo()
            .args(["install", "cargo-deny", "--locked", "--version"])
            .arg(CARGO_DENY_VERSION)
            .arg("--root")
            .arg(&tools),
    );
    if let Err(error) = install {
        eprintln!("{error:#}");
    }
    installed.into_iter().find(found)
}
