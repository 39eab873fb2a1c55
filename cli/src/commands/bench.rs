//! `flumen bench`: what this machine does, against the limit of bare QUIC on it.

use std::{future, io, path::PathBuf};

use anyhow::{Context, Result};
use flumen_broker::config::{ByteSize, Interval};
use flumen_client::Codec;
use flumen_protocol::limits::PARTITIONS_PER_TOPIC_MAX;

use super::runtime;
use crate::{
    arguments::Global,
    bench::{catch_up, consume, failover, limit, plugin, produce, raw},
    connect::Connection,
    failure::Interrupted,
    number::whole,
    output::OutputFormat,
    stop::{self, Signal},
};

const LIMIT_EXAMPLES: &str = "\
Examples:
  flumen bench limit
  flumen bench limit --record-size 1000 --output json";

const PRODUCE_EXAMPLES: &str = "\
Examples:
  flumen bench produce --record-size 1000 --wal-sync \"every 100ms\"
  # single records, each awaited
  flumen bench produce --batch-records 1 --in-flight 1000
  # latency, against a bare QUIC ping
  flumen bench produce --batch-records 1 --wal-sync \"every 100ms\"
  # 64 producers of one service; the same without sharing batches; 64 services
  flumen bench produce --batch-records 1 --producers 64
  flumen bench produce --batch-records 1 --producers 64 --dedicated
  flumen bench produce --batch-records 1 --producers 64 --connections 64";

const CONSUME_EXAMPLES: &str = "\
Examples:
  flumen bench consume --record-size 1000
  flumen bench consume --profile staging --output json";

const PLUGIN_EXAMPLES: &str = "\
Examples:
  flumen bench plugin
  flumen bench plugin --plugin target/guests/json_filter.wasm \\
      --config '{\"field\":\"n\",\"op\":\">=\",\"value\":0}'";

const FAILOVER_EXAMPLES: &str = "\
Examples:
  flumen bench failover
  flumen bench failover --runs 5 --handovers 5 --producers 16 --output json";

const CATCH_UP_EXAMPLES: &str = "\
Examples:
  flumen bench catch-up
  flumen bench catch-up --missed 4GiB --wal-sync \"every 100ms\" --output json";

const ABOUT: &str = "\
Each benchmark starts a broker of its own, as a process with a temporary directory on disk, unless
--profile or --brokers names one. It warms up first, then takes several rounds in turn with rounds
of bare QUIC between two processes (same transport settings, one stream, TLS), and reports medians.
Use a release build.";

/// Measure this machine: produce, consume, plugins, and the limit of bare QUIC
#[derive(Debug, clap::Subcommand)]
#[command(after_help = ABOUT)]
pub(crate) enum Command {
    /// Bare QUIC between two processes: the limit of everything else
    #[command(after_help = LIMIT_EXAMPLES)]
    Limit {
        #[command(flatten)]
        load: Load,
    },
    /// Produce records, and wait until they are durable
    #[command(after_help = PRODUCE_EXAMPLES)]
    Produce {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        broker: BrokerArguments,
    },
    /// Consume records that are in the page cache
    #[command(after_help = CONSUME_EXAMPLES)]
    Consume {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        broker: BrokerArguments,
    },
    /// Produce through a plugin, in turn with producing without it
    #[command(after_help = PLUGIN_EXAMPLES)]
    Plugin {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        broker: BrokerArguments,
        /// The plugin; default: the repository's sample `starts-with`, which keeps every record
        #[arg(long, value_name = "FILE.wasm")]
        plugin: Option<PathBuf>,
        /// The plugin's configuration; records are JSON objects with a number `n`
        #[arg(long, value_name = "JSON", requires = "plugin")]
        config: Option<String>,
    },
    /// Kill leaders of a cluster, and stop them, while clients send
    #[command(after_help = FAILOVER_EXAMPLES)]
    Failover(FailoverArguments),
    /// Kill a broker of a cluster, write without it, and let it come back
    #[command(after_help = CATCH_UP_EXAMPLES)]
    CatchUp(CatchUpArguments),
    /// The other end of bare QUIC
    #[command(hide = true)]
    Peer,
}

/// How often leaders are lost, and of what cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FailoverArguments {
    /// How often the leader is killed
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = whole(0..=1_000_u32))]
    pub(crate) runs: u32,
    /// How often a leader is told to stop, after that
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole(0..=1_000_u32))]
    pub(crate) handovers: u32,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = whole(1..=PARTITIONS_PER_TOPIC_MAX))]
    pub(crate) partitions: u32,
    /// Producers, each of which sends to a partition of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=1_000_u32))]
    pub(crate) producers: u32,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

/// How much a broker misses, and of what cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CatchUpArguments {
    /// Bytes of records that are written while the broker is away
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) missed: ByteSize,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole(1..=PARTITIONS_PER_TOPIC_MAX))]
    pub(crate) partitions: u32,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

/// What cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArguments {
    /// Brokers of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole(3..=9_u32))]
    pub(crate) brokers: u32,
    /// When the brokers acknowledge
    #[arg(long, value_name = "always|every DURATION", env = "FLUMEN_WAL_SYNC")]
    pub(crate) wal_sync: Option<String>,
    /// Where the brokers keep their data while they run
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) temporary_dir: PathBuf,
}

/// How much of what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Bytes of each record's value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = whole(1..=1_048_576_u32))]
    pub(crate) record_size: u32,
    /// Records in a batch; 1: every record is sent and awaited on its own
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = whole(1..=65_536_u32))]
    pub(crate) batch_records: u32,
    /// Records in all; default: as many as take a few seconds
    #[arg(long, value_name = "N", value_parser = whole(1..=u64::MAX))]
    pub(crate) records: Option<u64>,
    /// Producers at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=10_000_u32))]
    pub(crate) producers: u32,
    /// Connections of the producers, each with a client of its own, as services have; 1: all are
    /// of one service and share its client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=10_000_u32))]
    pub(crate) connections: u32,
    /// Each producer has a delivery of its own: what the producers of a client send at the same
    /// time goes into batches of their own
    #[arg(long)]
    pub(crate) dedicated: bool,
    /// Batches (with --batch-records 1: records) on their way at once, for each producer;
    /// default: as the client has it, or 1 with --batch-records 1
    #[arg(long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    pub(crate) in_flight: Option<u32>,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=PARTITIONS_PER_TOPIC_MAX))]
    pub(crate) partitions: u32,
    /// How batches are compressed
    #[arg(long, value_name = "none|lz4|zstd", default_value = "none")]
    pub(crate) compression: Codec,
    /// With --batch-records 1: send each record as a batch of its own, even while others wait
    #[arg(long)]
    pub(crate) no_coalescing: bool,
    /// How often everything is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole(1..=1_000_u32))]
    pub(crate) rounds: u32,
    /// How long each round takes, about, unless --records says otherwise
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) round_time: Interval,
    /// How long to warm up: memory and files that are touched first are slow
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub(crate) warm_up: Interval,
}

/// Which broker.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BrokerArguments {
    /// When the broker that is started acknowledges
    #[arg(long, value_name = "always|every DURATION", env = "FLUMEN_WAL_SYNC")]
    pub(crate) wal_sync: Option<String>,
    /// The size of the write-ahead log of the broker that is started
    #[arg(long, value_name = "SIZE")]
    pub(crate) wal_bytes_max: Option<ByteSize>,
    /// Where the broker that is started keeps its data while it runs
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) temporary_dir: PathBuf,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

pub(crate) fn run(command: Command, global: &Global) -> Result<()> {
    let output = global.output;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // Ctrl-C in a terminal ends the broker, too: that is not what to tell of then.
            biased;
            signal = stopped(&command) => {
                let signal = signal.context("cannot listen to signals")?;
                let so_far = "before all was measured".to_owned();
                Err(Interrupted { signal, so_far }.into())
            }
            outcome = measure(&command, output) => outcome,
        }
    });
    // What a benchmark does on threads of its own matters to nobody any more.
    runtime.shutdown_background();
    outcome
}

/// Waits until the benchmark is to end. It is dropped then, and what it has started goes with it.
async fn stopped(command: &Command) -> io::Result<Signal> {
    match command {
        // Ends with the process that started it.
        Command::Peer => future::pending().await,
        _ => stop::requested().await,
    }
}

async fn measure(command: &Command, output: OutputFormat) -> Result<()> {
    match command {
        Command::Limit { load } => limit::run(load, output).await,
        Command::Produce { load, broker } => produce::run(load, broker, output).await,
        Command::Consume { load, broker } => consume::run(load, broker, output).await,
        Command::Plugin {
            load,
            broker,
            plugin,
            config,
        } => plugin::run(load, broker, plugin.clone(), config.clone(), output).await,
        Command::Failover(arguments) => failover::run(arguments, output).await,
        Command::CatchUp(arguments) => catch_up::run(arguments, output).await,
        Command::Peer => raw::serve().await,
    }
}
