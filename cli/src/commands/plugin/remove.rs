//! `flumen plugin remove`.

use anyhow::Result;
use flumen_protocol::topic::Name;
use serde_json::json;

use crate::{connect::Connection, hint::Named, output::OutputFormat};

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
    let name = &arguments.name;
    arguments
        .connection
        .admin(Named::plugin(name), async |admin| {
            admin.remove_plugin(name.as_str()).await
        })
        .await?;
    output.done(
        "removed",
        &json!({ "plugin": name }),
        &format!("removed plugin {name}"),
    )
}
