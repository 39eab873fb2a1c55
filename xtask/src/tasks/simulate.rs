//! Deterministic simulation of brokers and clients: any number of seeds, or one again, or those
//! that every change is tried with.

use std::process::Command;

use anyhow::Result;

use crate::shell::{self, cargo, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them; with `--seeds 1`, one that failed is run again, with its events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Brokers of the simulated cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    brokers: u8,
    /// A bug to plant, which the simulation should find
    #[arg(long)]
    mutation: Option<String>,
    /// Run the seeds that every change is tried with, and look for planted bugs
    #[arg(long, exclusive = true)]
    fixed: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.fixed {
        return run_fixed();
    }
    step(&format!(
        "{} seeds from {} on, with {} brokers",
        arguments.seeds, arguments.seed, arguments.brokers
    ));
    let mut test = simulation();
    test.args(["--ignored", "--nocapture", "--exact"])
        .arg("seeds::seeds_that_were_asked_for")
        .env("FLUMEN_SIMULATE_SEEDS", arguments.seeds.to_string())
        .env("FLUMEN_SIMULATE_SEED", arguments.seed.to_string())
        .env("FLUMEN_SIMULATE_BROKERS", arguments.brokers.to_string());
    if arguments.seeds == 1 {
        test.env("FLUMEN_SIMULATE_TRACE", "1");
    }
    if let Some(mutation) = &arguments.mutation {
        test.env("FLUMEN_SIMULATE_MUTATION", mutation);
    }
    shell::run(&mut test)
}

/// Runs the seeds that every change is tried with.
pub(crate) fn run_fixed() -> Result<()> {
    step("simulation, in an optimised build of its own: the first one takes some ten minutes");
    let mut test = simulation();
    // Each of these tests keeps all cores busy.
    test.args(["--ignored", "--nocapture", "--test-threads", "1"])
        .args(["fixed::", "mutations::"]);
    shell::run(&mut test)
}

fn simulation() -> Command {
    let mut test = cargo();
    test.args(["test", "--workspace", "--locked", "--profile", "simulation"])
        .args(["--test", "simulation", "--"]);
    test
}
