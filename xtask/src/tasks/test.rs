//! Every test.

use anyhow::Result;

use crate::shell::{self, cargo, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
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
    shell::run(test.args(&arguments.cargo_test))
}
