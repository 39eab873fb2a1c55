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
    /// Of the faults of one seed, have only these come, by number, or `none`
    #[arg(long)]
    faults: Option<String>,
    /// Of the services of one seed, have only these, by number, or `none`
    #[arg(long)]
    jobs: Option<String>,
    /// End the faults of one seed after this time
    #[arg(long)]
    length_ms: Option<u64>,
    /// Look for the fewest faults and services, and the shortest time, with which one seed fails
    #[arg(long, conflicts_with_all = ["seeds", "faults", "jobs", "length_ms"])]
    shrink: bool,
    /// Run the seeds that every change is tried with, and look for planted bugs
    #[arg(long, exclusive = true)]
    fixed: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.fixed {
        return run_fixed();
    }
    let name = if arguments.shrink {
        step(&format!(
            "the least with which seed {} fails",
            arguments.seed
        ));
        "seeds::the_least_with_which_the_seed_fails_that_was_asked_for"
    } else {
        step(&format!(
            "{} seeds from {} on, with {} brokers",
            arguments.seeds, arguments.seed, arguments.brokers
        ));
        "seeds::seeds_that_were_asked_for"
    };
    let mut test = simulation();
    test.args(["--ignored", "--nocapture", "--exact", name])
        .env("FLUMEN_SIMULATE_SEEDS", arguments.seeds.to_string())
        .env("FLUMEN_SIMULATE_SEED", arguments.seed.to_string())
        .env("FLUMEN_SIMULATE_BROKERS", arguments.brokers.to_string());
    if arguments.seeds == 1 {
        test.env("FLUMEN_SIMULATE_TRACE", "1");
    }
    let more = [
        ("FLUMEN_SIMULATE_MUTATION", arguments.mutation.clone()),
        ("FLUMEN_SIMULATE_FAULTS", arguments.faults.clone()),
        ("FLUMEN_SIMULATE_JOBS", arguments.jobs.clone()),
        (
            "FLUMEN_SIMULATE_LENGTH_MS",
            arguments.length_ms.map(|length| length.to_string()),
        ),
    ];
    for (name, value) in more {
        test.envs(value.map(|value| (name, value)));
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
        .args(["--test", "simulation", "--"])
        // aws-lc measures the jitter of the processor before its first random number. That takes a
        // tenth of a second in each process, and a simulation has no secrets.
        .env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    test
}
