//! `flumen serve`: a broker for real use.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
};

use anyhow::{Context, Result, bail};
use flumen_broker::{config::BrokerConfig, node::Broker};
use flumen_protocol::{
    join::{JoinToken, JoinTokenError},
    topic::Name,
};
use serde_json::json;

use super::runtime;
use crate::{
    arguments::Global, failure::usage, logging, output::OutputFormat, settings::Settings, stop,
    systemd,
};

const EXAMPLES: &str = "\
Examples:
  flumen serve --config /etc/flumen/flumen.toml
  flumen serve --data-dir /var/lib/flumen --listen 0.0.0.0:4650 --advertise broker-1.example.com
  FLUMEN_WAL_SYNC=\"every 100ms\" flumen serve --data-dir data
  flumen serve --data-dir a --listen 10.0.0.1:4650 --bootstrap
  flumen serve --data-dir b --listen 10.0.0.2:4650 --zone east --join @join.token

A broker that starts on an empty data directory makes a cluster of its own, which grows by others
that join it: --join takes what `flumen cluster token` prints. Later starts need neither flag, and
may keep them.

Every setting can stand in the file, in an environment variable, or in a flag; a flag wins over a
variable, a variable over the file. Ctrl-C or SIGTERM stops the broker gracefully: it finishes what
is under way and checkpoints. A client needs the file client.toml of the data directory:
  flumen status --profile data/client.toml

With --output json, one object says where the broker is once it serves.";

const NO_SIGNALS: &str = "cannot listen to signals";

/// Run a broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "FLUMEN_CONFIG")]
    config: Option<PathBuf>,
    /// Make a cluster on the first start; refuse a data directory that has joined another one
    #[arg(long)]
    bootstrap: bool,
    /// Join a cluster on the first start, with a token of `flumen cluster token` or a file of it
    #[arg(
        long,
        value_name = "TOKEN|@FILE",
        hide_env_values = true,
        env = "FLUMEN_JOIN"
    )]
    join: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// How a broker becomes one of a cluster.
pub(crate) enum Start {
    /// By what is in the data directory; an empty one makes a cluster.
    AsItIs,
    Bootstrap,
    Join(JoinToken),
}

impl Arguments {
    fn start(&self) -> Result<Start> {
        match self.join.as_deref() {
            Some(_) if self.bootstrap => Err(usage(
                "--bootstrap makes a cluster, and --join or FLUMEN_JOIN joins another one: give one \
                 of them",
            )),
            Some(text) if text.trim().is_empty() => Err(usage(
                "--join is empty; write a token of `flumen cluster token`, or @ and a file of it",
            )),
            Some(text) => read_token(text).map(Start::Join),
            None if self.bootstrap => Ok(Start::Bootstrap),
            None => Ok(Start::AsItIs),
        }
    }
}

/// A token as it was given, or from the file that was. It is secret: errors do not repeat it.
fn read_token(text: &str) -> Result<JoinToken> {
    let text = match text.strip_prefix('@') {
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("cannot read the join token in {path}"))?,
        None => text.to_owned(),
    };
    text.parse()
        .map_err(|error: JoinTokenError| usage(format!("--join: {error}")))
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<()> {
    let config = arguments
        .settings
        .resolve(arguments.config.as_ref(), global)?;
    logging::start(&config.log, config.log_format)?;
    let data_dir = config.data_dir.clone();
    serve(config, arguments.start()?, |broker| match global.output {
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
    start: Start,
    started: impl FnOnce(&Broker) -> Result<()>,
) -> Result<()> {
    let runtime = runtime()?;
    let mut has_started = false;
    let outcome = runtime.block_on(async {
        // From now on: as the first process of a container, it would not be ended by a signal that
        // nobody listens to, and a start may take long, or wait for others.
        let mut stop = pin!(stop::requested());
        let starting = async {
            match start {
                Start::AsItIs => Broker::start(config).await,
                Start::Bootstrap => Broker::bootstrap(config).await,
                Start::Join(token) => Broker::join(config, &token).await,
            }
        };
        let broker = tokio::select! {
            broker = starting => broker.context("cannot start the broker")?,
            signal = &mut stop => {
                let signal = signal.context(NO_SIGNALS)?;
                tracing::info!(%signal, "stopping before the broker serves");
                systemd::notify(systemd::State::Stopping);
                return Ok(());
            }
        };
        has_started = true;
        started(&broker)?;
        systemd::notify(systemd::State::Ready);
        let failure = tokio::select! {
            signal = &mut stop => {
                let signal = signal.context(NO_SIGNALS)?;
                tracing::info!(%signal, "stopping");
                None
            }
            failure = broker.failed() => Some(failure),
        };
        systemd::notify(systemd::State::Stopping);
        broker.stop().await;
        match failure {
            Some(failure) => bail!("the broker has failed: {failure}"),
            None => Ok(()),
        }
    });
    if !has_started {
        // What a start reads and writes may be left at any moment, as by a crash.
        runtime.shutdown_background();
    }
    outcome
}
