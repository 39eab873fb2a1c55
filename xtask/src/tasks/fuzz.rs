//! Fuzzing, by cargo-fuzz, which needs a nightly compiler.

use anyhow::{Context, Result, bail};

use crate::shell::{self, command, output, root, step, succeeds};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The target to fuzz; without it, all of them, one after the other
    target: Option<String>,
    /// How long each target is fuzzed, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !root().join("fuzz/Cargo.toml").exists() {
        bail!("there is no folder fuzz/ with targets");
    }
    install_missing()?;
    let targets = match &arguments.target {
        Some(target) => vec![target.clone()],
        None => output(fuzz().arg("list"))
            .context("cannot list the fuzz targets")?
            .lines()
            .map(str::to_owned)
            .collect(),
    };
    for target in targets {
        step(&format!("{target}, for {} s", arguments.seconds));
        let limit = format!("-max_total_time={}", arguments.seconds);
        shell::run(fuzz().args(["run", &target, "--", &limit]))?;
    }
    Ok(())
}

fn fuzz() -> std::process::Command {
    let mut fuzz = command("cargo");
    // Set by the stable cargo that runs this task; rustup must choose anew.
    fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    fuzz.args(["+nightly", "fuzz"]);
    fuzz
}

fn install_missing() -> Result<()> {
    if !succeeds(
        command("rustc")
            .env_remove("RUSTUP_TOOLCHAIN")
            .args(["+nightly", "--version"]),
    ) {
        step("installing a nightly compiler");
        shell::run(command("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
        ]))
        .context("fuzzing needs a nightly compiler, and rustup cannot install one")?;
    }
    if !succeeds(fuzz().arg("--version")) {
        step("installing cargo-fuzz");
        shell::run(command("cargo").args(["install", "cargo-fuzz", "--locked"]))
            .context("fuzzing needs cargo-fuzz")?;
    }
    Ok(())
}
