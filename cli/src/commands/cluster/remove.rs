//! `flumen cluster remove`.

use anyhow::Result;
use flumen_client::Client;
use serde_json::json;

use super::{broker, tables::state};
use crate::{
    confirm::Confirmation,
    connect::Connection,
    output::{OutputFormat, counted},
};

const EXAMPLES: &str = "\
Examples:
  flumen cluster remove broker-3:4650
  # by the beginning of its id
  flumen cluster remove 1139
  # without being asked
  flumen cluster remove broker-3:4650 --yes

On a terminal, it asks first, and says which broker it is.

A broker that can be reached must be drained first, with `flumen cluster drain`. One that is dead is
removed with the replicas that it had; the cluster makes others. The broker's id is never taken
back: its machine joins with an empty data directory, as a new broker.";

/// Remove a broker for good, one that is drained or dead
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The broker: its id, four digits or more of its beginning, or its address
    broker: String,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let client = arguments.connection.connect().await?;
    let outcome = remove(&client, &arguments, output).await;
    client.close().await;
    outcome
}

async fn remove(client: &Client, arguments: &Arguments, output: OutputFormat) -> Result<()> {
    let admin = client.admin();
    let status = admin.cluster_status().await?;
    let broker = broker::find(&status, &arguments.broker)?;
    let question = format!(
        "Broker {broker} is {} and has {}. Remove it for good?",
        state(broker),
        counted(broker.replicas.into(), "replica"),
    );
    arguments.confirmation.ask(question).await?;
    admin.remove_broker(broker.id).await?;
    output.done(
        "removed",
        &json!({ "broker": broker.id, "address": broker.address }),
        &format!("removed broker {broker}"),
    )
}
