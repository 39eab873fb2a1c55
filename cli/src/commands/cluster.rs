//! `flumen cluster`: one file for each verb.

mod broker;
mod describe;
mod drain;
mod rebalance;
mod remove;
mod replication_factor;
mod status;
mod tables;
mod token;
mod view;
mod wait;

use anyhow::Result;

pub(crate) use self::broker::names as names_of_brokers;
use crate::output::OutputFormat;

/// Show the cluster, let brokers join, and move leaders and replicas
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(status::Arguments),
    Describe(describe::Arguments),
    Drain(drain::Arguments),
    Remove(remove::Arguments),
    Rebalance(rebalance::Arguments),
    ReplicationFactor(replication_factor::Arguments),
    Token(token::Arguments),
}

pub(crate) async fn run(command: Command, output: OutputFormat) -> Result<()> {
    match command {
        Command::Status(arguments) => status::run(arguments, output).await,
        Command::Describe(arguments) => describe::run(arguments, output).await,
        Command::Drain(arguments) => drain::run(arguments, output).await,
        Command::Remove(arguments) => remove::run(arguments, output).await,
        Command::Rebalance(arguments) => rebalance::run(arguments, output).await,
        Command::ReplicationFactor(arguments) => replication_factor::run(arguments, output).await,
        Command::Token(arguments) => token::run(arguments, output).await,
    }
}
