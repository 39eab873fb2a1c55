//! `flumen plugin describe`.

use anyhow::Result;
use flumen_protocol::topic::Name;

use super::bindings_table;
use crate::{
    connect::Connection,
    hint::Named,
    output::{OutputFormat, bytes, time, write_fields, write_table},
    view,
};

const EXAMPLES: &str = "\
Examples:
  flumen plugin describe json-filter
  flumen plugin describe json-filter --output json | jq '.bindings[] | {topic, failed_records}'";

/// Show a plugin, where it is bound, and how it fares there
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The plugin
    name: Name,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let plugin = arguments
        .connection
        .admin(Named::plugin(&arguments.name), async |admin| {
            admin.describe_plugin(arguments.name.as_str()).await
        })
        .await?;
    output.print(&view::PluginDetails::from(&plugin), |out| {
        let info = &plugin.info;
        write_fields(
            out,
            &[
                ("plugin", &info.name),
                ("version", &info.version),
                ("world", &info.world),
                ("size", &bytes(info.size_bytes)),
                ("deployed", &time(info.deployed_ms as i64)),
                ("SHA-256", &info.digest),
            ],
        )?;
        if plugin.bindings.is_empty() {
            eprintln!(
                "It is bound to no topic; `flumen plugin bind TOPIC {}` does so.",
                info.name
            );
            return Ok(());
        }
        writeln!(out)?;
        write_table(out, &bindings_table(&plugin.bindings))
    })
}
