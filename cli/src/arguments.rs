//! The command line as a whole.

mod leading;

use std::env;

use clap::{CommandFactory as _, Parser, Subcommand};
use flumen_broker::config::LogFormat;

use crate::{
    commands::{
        bench, cluster, completions, consume, dev, plugin, produce, profile, serve, status, topic,
    },
    output::OutputFormat,
};

const EXAMPLES: &str = "\
Examples:
  flumen dev                                       start a broker on this machine
  flumen topic create orders --partitions 4        make a topic
  echo '{\"id\":1}' | flumen produce orders          send a record
  flumen consume orders --from beginning           read all records, and those to come

Every command has its own --help with more examples. The flags that say which cluster to talk to,
such as --profile, may also stand before it: flumen --profile staging topic list";

/// A durable, fast message queue over QUIC, with WebAssembly plugins
#[derive(Debug, Parser)]
#[command(name = "flumen", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Reads the command line of the process; usage errors and requests for help end it.
    pub(crate) fn read() -> Self {
        Self::parse_from(leading::moved_behind(&Self::command(), env::args_os()))
    }
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How results are printed
    #[arg(
        long,
        value_enum,
        default_value_t,
        global = true,
        env = "FLUMEN_OUTPUT"
    )]
    pub(crate) output: OutputFormat,
    /// What is logged, to stderr: error, warn, info, debug, trace, also per module
    #[arg(long, value_name = "LEVEL", global = true, env = "FLUMEN_LOG")]
    pub(crate) log: Option<String>,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", global = true, env = "FLUMEN_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(dev::Arguments),
    Serve(serve::Arguments),
    #[command(subcommand)]
    Topic(topic::Command),
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    #[command(subcommand)]
    Plugin(plugin::Command),
    #[command(subcommand)]
    Cluster(cluster::Command),
    #[command(subcommand)]
    Bench(bench::Command),
    Status(status::Arguments),
    #[command(subcommand)]
    Profile(profile::Command),
    Completions(completions::Arguments),
}
