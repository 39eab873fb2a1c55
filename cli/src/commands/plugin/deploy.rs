//! `flumen plugin deploy`.

use std::path::PathBuf;

use anyhow::Result;
use flumen_protocol::topic::Name;

use super::{read_component, summary};
use crate::{connect::Connection, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen plugin deploy json-filter target/wasm32-wasip2/release/json_filter.wasm
  flumen plugin deploy json-filter json_filter.wasm --version 1.2.0

A deployed plugin does nothing until it is bound: see `flumen plugin bind --help`.";

/// Add a plugin to the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The plugin's name
    name: Name,
    /// The WebAssembly component
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
                .deploy_plugin(
                    arguments.name.as_str(),
                    arguments.version.as_deref(),
                    component,
                )
                .await
        })
        .await?;
    output.print(&plugin, |out| {
        Ok(writeln!(out, "deployed {}", summary(&plugin.info))?)
    })
}
