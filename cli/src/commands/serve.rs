//! `flumen serve`: a broker for real use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flumen_broker::{config::BrokerConfig, node::Broker};
use flumen_protocol::topic::Name;
use serde_json::json;

use super::runtime;
use crate::{arguments::Global, logging, output::OutputFormat, settings::Settings, stop};

const EXAMPLES: &str = "\
Examples:
  flumen serve --config /etc/flumen/flumen.toml
  flumen serve --data-dir /var/lib/flumen --listen 0.0.0.0:4650 --advertise broker-1.example.com
  FLUMEN_WAL_SYNC=\"every 100ms\" flumen serve --data-dir data

Every setting can stand in the file, in an environment variable, or in a flag; a flag wins over a
variable, a variable over the file. Ctrl-C or SIGTERM stops the broker gracefully: it finishes what
is under way and checkpoints. A client needs the file client.toml of the data directory:
  flumen status --profile data/client.toml

With --output json, one object says where the broker is once it serves.";

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
    let data_dir = config.data_dir.clone();
    serve(config, |broker| match global.output {
        OutputFormat::Text => Ok(()),
        OutputFormat::Json => tell_json(broker, &data_dir, None),
    })
}

/// Prints where the broker is, for programs.
pub(crate) fn tell_json(broker: &Broker, data_dir: &Path, profile: Option<&Name>) -> Result<()> {
    let object = json!({
        "address": broker.local_addr(),
        "admin": broker.admin_addr(),
        "data_dir": data_dir,
        "profile": profile,
        "profile_file": broker.profile(),
    });
    OutputFormat::Json.done("started", &object, "")
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
