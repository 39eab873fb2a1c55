//! `flumen plugin rollback`.

use anyhow::{Context, Result};
use flumen_protocol::topic::Name;

use super::component::summary;
use crate::{connect::Connection, hint::Named, output::OutputFormat, view};

const EXAMPLES: &str = "\
Examples:
  flumen plugin rollback json-filter

The version before takes over wherever the plugin is bound, as a new one does: no record is lost
meanwhile, and none passes by it. One version is kept: to roll back once more undoes it.";

/// Go back to a plugin's version before its last upgrade, also where it is bound
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The plugin
    name: Name,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
    let plugin = arguments
        .connection
        .admin(Named::plugin(name), async |admin| {
            admin.roll_back_plugin(name.as_str()).await
        })
        .await
        .with_context(|| format!("cannot roll back plugin {name}"))?;
    output.done(
        "rolled_back",
        &view::PluginDetails::from(&plugin),
        &format!("rolled plugin {name} back to {}", summary(&plugin.info)),
    )
}
