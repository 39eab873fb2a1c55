//! `flumen serve`: a broker for real use.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use flumen_broker::{config::BrokerConfig, node::Broker};

use super::runtime;
use crate::{arguments::Global, logging, settings::Settings, stop};

const EXAMPLES: &str = "\
Examples:
  flumen serve --config /etc/flumen/flumen.toml
  flumen serve --data-dir /var/lib/flumen --listen 0.0.0.0:4650 --advertise broker-1.example.com
  FLUMEN_WAL_SYNC=\"every 100ms\" flumen serve --data-dir data

Every setting can stand in the file, in an environment variable, or in a flag; a flag wins over a
variable, a variable over the file. Ctrl-C or SIGTERM stops the broker gracefully: it finishes what
is under way and checkpoints. A client needs the file client.toml of the data directory:
  flumen status --profile data/client.toml";

/// Run a broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "FLUMEN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<()> {
    let config = arguments
        .settings
        .resolve(arguments.config.as_ref(), global)?;
    logging::start(&config.log, config.log_format)?;
    serve(config, |_| Ok(()))
}

/// Runs a broker until the process is asked to stop. `started` is called once it serves.
pub(crate) fn serve(
    config: BrokerConfig,
    started: impl FnOnce(&Broker) -> Result<()>,
) -> Result<()> {
    runtime()?.block_on(async {
        let broker = Broker::start(config)
            .await
            .context("cannot start the broker")?;
        started(&broker)?;
        let failure = tokio::select! {
            signal = stop::requested() => {
                let signal = signal.context("cannot listen to signals")?;
                tracing::info!(%signal, "stopping");
                None
            }
            failure = broker.failed() => Some(failure),
        };
        broker.stop().await;
        match failure {
            Some(failure) => bail!("the broker has failed: {failure}"),
            None => Ok(()),
        }
    })
}
