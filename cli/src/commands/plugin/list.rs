//! `flumen plugin list`.

use anyhow::Result;

use crate::{
    connect::Connection,
    hint::Named,
    output::{OutputFormat, bytes, table, time, write_table},
    view,
};

const EXAMPLES: &str = "\
Examples:
  flumen plugin list
  flumen plugin list --output json | jq -r '.[] | \"\\(.plugin) \\(.version)\"'";

/// List all plugins
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let plugins = arguments
        .connection
        .admin(Named::default(), async |admin| admin.list_plugins().await)
        .await?;
    let rows: Vec<_> = plugins.iter().map(view::PluginRow::from).collect();
    output.print(&rows, |out| {
        if plugins.is_empty() {
            eprintln!("There are no plugins yet; `flumen plugin deploy NAME FILE.wasm` adds one.");
            return Ok(());
        }
        let mut table = table(["NAME", "VERSION", "WORLD", "SIZE", "DEPLOYED", "DIGEST"]);
        for plugin in &plugins {
            let mut digest = plugin.digest.to_string();
            digest.truncate(DIGEST_DIGITS);
            table.add_row([
                plugin.name.to_string(),
                plugin.version.clone(),
                plugin.world.to_string(),
                bytes(plugin.size_bytes),
                time(plugin.deployed_ms as i64),
                digest,
            ]);
        }
        write_table(out, &table)
    })
}

/// Enough of a digest to tell one version from another.
const DIGEST_DIGITS: usize = 12;
