//! `flumen plugin deploy`.

use anyhow::{Context, Result};

use super::component::{ComponentArguments, summary};
use crate::{connect::Connection, hint::Named, output::OutputFormat, view};

const EXAMPLES: &str = "\
Examples:
  flumen plugin deploy json-filter target/wasm32-wasip2/release/json_filter.wasm
  flumen plugin deploy json-filter json_filter.wasm --version 1.2.0

A deployed plugin does nothing until it is bound: see `flumen plugin bind --help`.";

/// Add a plugin to the cluster
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
        .admin(Named::default(), async |admin| {
            admin.deploy_plugin(name, version, bytes).await
        })
        .await
        .with_context(|| component.cannot("deploy"))?;
    output.done(
        "deployed",
        &view::PluginDetails::from(&plugin),
        &format!(
            "deployed plugin {name} {}{}",
            summary(&plugin.info),
            component.version_note("it has no version of its author's")
        ),
    )
}
