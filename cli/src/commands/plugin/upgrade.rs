//! `flumen plugin upgrade`.

use std::path::PathBuf;

use anyhow::Result;
use flumen_protocol::topic::Name;

use super::{read_component, summary};
use crate::{connect::Connection, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen plugin upgrade json-filter json_filter.wasm --version 1.3.0

The new version takes over wherever the plugin is bound: no record is lost meanwhile, and none
passes by it. If it refuses the configuration of a binding, the old version stays.";

/// Replace a plugin by a new version, also where it is bound
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The plugin
    name: Name,
    /// The new WebAssembly component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The version, as its author counts
    #[arg(long, value_name = "V")]
    version: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let component = read_component(&arguments.file)?;
    let plugin = arguments
        .connection
        .admin(async |admin| {
            admin
                .upgrade_plugin(
                    arguments.name.as_str(),
                    arguments.version.as_deref(),
                    component,
                )
                .await
        })
        .await?;
    output.print(&plugin, |out| {
        Ok(writeln!(out, "upgraded to {}", summary(&plugin.info))?)
    })
}
