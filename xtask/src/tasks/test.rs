//! Every test.

use anyhow::Result;

use crate::shell::{self, cargo, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often tests that kill and restart brokers do so, for a longer run than by default
    #[arg(long)]
    rounds: Option<u32>,
    /// Passed on to `cargo test`, such as `-p flumen-broker wal::`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_test: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::guests::run()?;
    step("tests of the guests");
    for workspace in super::guests::workspaces() {
        if workspace.ends_with("hostile") {
            // They are what other tests run; there is nothing to test in them.
            continue;
        }
        shell::run(
            cargo()
                .args(["test", "--locked", "--manifest-path"])
                .arg(workspace.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(super::guests::build_dir()),
        )?;
    }
    step("tests");
    let mut test = cargo();
    test.args(["test", "--locked", "--no-fail-fast"]);
    if arguments.cargo_test.is_empty() {
        test.arg("--workspace");
    }
    if let Some(rounds) = arguments.rounds {
        test.env("FLUMEN_TEST_ROUNDS", rounds.to_string());
    }
    shell::run(test.args(&arguments.cargo_test))?;
    if arguments.cargo_test.is_empty() {
        super::simulate::run_fixed()?;
    }
    Ok(())
}
