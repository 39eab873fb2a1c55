//! `flumen plugin`: one file for each verb.

mod bind;
mod deploy;
mod describe;
mod list;
mod remove;
mod test;
mod unbind;
mod upgrade;

use std::path::Path;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use flumen_protocol::{limits::PLUGIN_BYTES_MAX, message::BindingStatus, plugin::PluginInfo};

use crate::output::{self, OutputFormat, table};

/// Deploy plugins, bind them to topics, and try them out
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Deploy(deploy::Arguments),
    List(list::Arguments),
    Describe(describe::Arguments),
    Remove(remove::Arguments),
    Bind(bind::Arguments),
    Unbind(unbind::Arguments),
    Upgrade(upgrade::Arguments),
    Test(test::Arguments),
}

pub(crate) async fn run(command: Command, output: OutputFormat) -> Result<()> {
    match command {
        Command::Deploy(arguments) => deploy::run(arguments, output).await,
        Command::List(arguments) => list::run(arguments, output).await,
        Command::Describe(arguments) => describe::run(arguments, output).await,
        Command::Remove(arguments) => remove::run(arguments, output).await,
        Command::Bind(arguments) => bind::run(arguments, output).await,
        Command::Unbind(arguments) => unbind::run(arguments, output).await,
        Command::Upgrade(arguments) => upgrade::run(arguments, output).await,
        Command::Test(arguments) => test::run(arguments, output).await,
    }
}

/// The bytes of a component, if they can be one by their size.
fn read_component(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read the plugin {}", path.display());
    let size = std::fs::metadata(path).with_context(failed)?.len();
    if size > PLUGIN_BYTES_MAX as u64 {
        bail!(
            "the plugin {} has {}, but at most {} are allowed; build it with --release, opt-level \
             and strip",
            path.display(),
            output::bytes(size),
            output::bytes(PLUGIN_BYTES_MAX as u64)
        );
    }
    std::fs::read(path).with_context(failed)
}

/// `json-filter 0.1.0 (filter, 144 KiB)`.
fn summary(info: &PluginInfo) -> String {
    format!(
        "{} {} ({}, {})",
        info.name,
        info.version,
        info.world,
        output::bytes(info.size_bytes)
    )
}

/// Bindings and how they fare.
pub(crate) fn bindings_table(bindings: &[BindingStatus]) -> Table {
    let mut table = table([
        "TOPIC",
        "PLUGIN",
        "VERSION",
        "ON ERROR",
        "TIMEOUT",
        "CALLS",
        "FAILED CALLS",
        "FAILED RECORDS",
        "STATE",
    ]);
    for status in bindings {
        let state = match (&status.last_failure, status.suspended) {
            (Some(failure), true) => format!("suspended: {failure}"),
            (None, true) => "suspended".to_owned(),
            (Some(failure), false) => format!("last failure: {failure}"),
            (None, false) => "ok".to_owned(),
        };
        table.add_row([
            status.topic.to_string(),
            status.binding.plugin.to_string(),
            status.version.clone(),
            status.binding.on_error.to_string(),
            format!("{}ms", status.binding.timeout_ms),
            output::count(status.calls),
            output::count(status.failures),
            output::count(status.failed_records),
            state,
        ]);
    }
    table
}
