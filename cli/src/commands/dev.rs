//! `flumen dev`: a broker on this machine with nothing to set up.

use std::path::PathBuf;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use flumen_broker::{
    config::{BrokerConfig, LogFormat, Source},
    node::Broker,
};
use flumen_client::{Profile, Profiles};

use super::serve;
use crate::{arguments::Global, logging, settings::usage};

const EXAMPLES: &str = "\
Examples:
  flumen dev
  flumen dev --data-dir /tmp/flumen --listen 127.0.0.1:0

The first start makes a data directory and a certificate authority. Every start makes the profile
\"dev\" and makes it the default, so that every other command finds the broker without flags;
`flumen profile use NAME` goes back to another one.";

/// The name of the profile that leads to the broker.
const PROFILE: &str = "dev";

/// What is logged unless told otherwise: what is printed says the rest.
const LEVEL: &str = "warn";

/// Run a broker on this machine, with nothing to set up
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Where records are kept; default: a directory among the user's data
    #[arg(long, value_name = "DIR", env = "FLUMEN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The UDP address that clients connect to; port 0 takes any free port
    #[arg(long, value_name = "IP:PORT", env = "FLUMEN_LISTEN")]
    listen: Option<String>,
    /// The TCP address of /metrics, /healthz and /readyz, or none
    #[arg(long, value_name = "IP:PORT", env = "FLUMEN_ADMIN")]
    admin: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<()> {
    let mut config = BrokerConfig {
        log: global.log.clone().unwrap_or_else(|| LEVEL.to_owned()),
        log_format: global.log_format.unwrap_or(LogFormat::Text),
        data_dir: match &arguments.data_dir {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        },
        ..BrokerConfig::default()
    };
    for (key, text) in [("listen", &arguments.listen), ("admin", &arguments.admin)] {
        if let Some(text) = text {
            config.set(key, text, Source::Flag).map_err(usage)?;
        }
    }
    logging::start(&config.log, config.log_format)?;
    let data_dir = config.data_dir.clone();
    serve::serve(config, |broker| {
        let profile = Profile::read(broker.profile())?;
        let profiles = Profiles::of_user()?;
        profiles.save(PROFILE, &profile)?;
        let before = profiles.default_name()?;
        profiles.make_default(PROFILE)?;
        let replaced = before.filter(|name| name != PROFILE);
        tell(broker, &data_dir.display().to_string(), replaced.as_deref());
        Ok(())
    })
}

fn default_data_dir() -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy()
        .context("there is no home directory to keep data in; name one with --data-dir")?;
    Ok(base.data_dir().join("flumen").join("dev"))
}

fn tell(broker: &Broker, data_dir: &str, replaced: Option<&str>) {
    const BOLD: Style = Style::new().bold();
    const COMMAND: Style = AnsiColor::Cyan.on_default();
    let admin = broker.admin_addr();
    eprintln!("{BOLD}Flumen is running.{BOLD:#} Ctrl-C stops it.\n");
    eprintln!("  address   {} (QUIC)", broker.local_addr());
    if let Some(admin) = admin {
        eprintln!("  metrics   http://{admin}/metrics");
    }
    eprintln!("  data      {data_dir}");
    match replaced {
        None => eprintln!("  profile   {PROFILE} (the default from now on)\n"),
        Some(name) => eprintln!(
            "  profile   {PROFILE} (the default from now on; `flumen profile use {name}` goes back)\n"
        ),
    }
    eprintln!("In another terminal:\n");
    for line in [
        "flumen topic create hello",
        "echo 'hello, world' | flumen produce hello",
        "flumen consume hello --from beginning",
    ] {
        eprintln!("  {COMMAND}{line}{COMMAND:#}");
    }
}
