//! `flumen cluster rebalance`.

use anyhow::Result;
use flumen_client::Client;
use serde_json::json;

use super::wait::Wait;
use crate::{connect::Connection, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen cluster rebalance
  flumen cluster rebalance --wait --timeout 1h";

/// Spread leaders and replicas evenly over the brokers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let client = arguments.connection.connect().await?;
    let outcome = rebalance(&client, arguments.wait, output).await;
    client.close().await;
    outcome
}

async fn rebalance(client: &Client, wait: Wait, output: OutputFormat) -> Result<()> {
    client.admin().rebalance().await?;
    let what = "moving leaders and replicas";
    let left = |status: &flumen_protocol::message::ClusterStatus| Ok(status.moves_left.into());
    if wait.until_done(client, what, left).await?.is_some() {
        let sentence = "leaders and replicas are spread evenly";
        return output.done("rebalanced", &json!({}), sentence);
    }
    let sentence = format!("{what}; `flumen cluster status` shows how far it is");
    output.done("rebalancing", &json!({}), &sentence)
}
