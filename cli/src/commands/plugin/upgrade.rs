//! `flumen plugin upgrade`.

use anyhow::{Context, Result};

use super::component::{ComponentArguments, summary};
use crate::{connect::Connection, hint::Named, output::OutputFormat, view};

const EXAMPLES: &str = "\
Examples:
  flumen plugin upgrade json-filter json_filter.wasm --version 1.3.0

The new version takes over wherever the plugin is bound: no record is lost meanwhile, and none
passes by it. If it refuses the configuration of a binding, the old version stays.";

/// Replace a plugin by a new version, also where it is bound
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    component: ComponentArguments,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let Arguments {
        component,
        connection,
    } = &arguments;
    let (name, version) = (component.name.as_str(), component.version.as_deref());
    let bytes = component.read()?;
    let plugin = connection
        .admin(Named::plugin(&component.name), async |admin| {
            admin.upgrade_plugin(name, version, bytes).await
        })
        .await
        .with_context(|| component.cannot("upgrade"))?;
    output.done(
        "upgraded",
        &view::PluginDetails::from(&plugin),
        &format!(
            "upgraded plugin {name} to {}{}",
            summary(&plugin.info),
            component.version_note("it keeps its version")
        ),
    )
}
