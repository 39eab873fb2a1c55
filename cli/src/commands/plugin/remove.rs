//! `flumen plugin remove`.

use anyhow::Result;
use flumen_protocol::topic::Name;

use crate::{connect::Connection, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen plugin unbind orders json-filter
  flumen plugin remove json-filter";

/// Remove a plugin that is bound to no topic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The plugin
    name: Name,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    arguments
        .connection
        .admin(async |admin| admin.remove_plugin(arguments.name.as_str()).await)
        .await?;
    output.done(&format!("removed plugin {}", arguments.name))
}
