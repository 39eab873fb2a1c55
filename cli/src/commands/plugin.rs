//! `flumen plugin`: one file for each verb.

mod bind;
pub(crate) mod component;
mod deploy;
mod describe;
mod list;
mod remove;
mod rollback;
mod settings;
mod test;
mod unbind;
mod upgrade;

use anyhow::Result;
use comfy_table::Table;
use flumen_protocol::message::BindingStatus;

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
    Rollback(rollback::Arguments),
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
        Command::Rollback(arguments) => rollback::run(arguments, output).await,
        Command::Test(arguments) => test::run(arguments, output).await,
    }
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
