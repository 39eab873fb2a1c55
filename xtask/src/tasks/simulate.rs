//! Deterministic simulation of brokers and clients: any number of seeds, or one again.

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
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    step(&format!(
        "{} seeds from {} on, with {} brokers",
        arguments.seeds, arguments.seed, arguments.brokers
    ));
    let mut test = cargo();
    test.args(["test", "--workspace", "--locked", "--test", "simulation"])
        .args(["--", "--ignored", "--nocapture", "--exact"])
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
