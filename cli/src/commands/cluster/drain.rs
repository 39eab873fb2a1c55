//! `flumen cluster drain`.

use anyhow::Result;
use flumen_client::Client;
use serde_json::json;

use super::{broker, wait::Wait};
use crate::{connect::Connection, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen cluster drain broker-3:4650 --wait --timeout 30min
  # by the beginning of its id
  flumen cluster drain 1139
  # let it have leaders and replicas again
  flumen cluster drain 1139 --undo

Clients follow the leaders; no send fails for it. A broker that is drained may be stopped, or
removed for good with `flumen cluster remove`.";

/// Move all leaders and replicas away from a broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The broker: its id, the beginning of its id, or its address
    broker: String,
    /// Let the broker have leaders and replicas again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let client = arguments.connection.connect().await?;
    let outcome = drain(&client, &arguments, output).await;
    client.close().await;
    outcome
}

async fn drain(client: &Client, arguments: &Arguments, output: OutputFormat) -> Result<()> {
    let admin = client.admin();
    let status = admin.cluster_status().await?;
    let broker = broker::find(&status, &arguments.broker)?;
    let object = json!({ "broker": broker.id, "address": broker.address });
    if arguments.undo {
        admin.undrain_broker(broker.id).await?;
        let sentence = format!("broker {broker} may have leaders and replicas again");
        return output.done("undrained", &object, &sentence);
    }
    admin.drain_broker(broker.id).await?;
    let what = format!("draining broker {broker}");
    let left = |status: &_| {
        let broker = broker::by_id(status, broker.id)?;
        Ok(u64::from(broker.leaders) + u64::from(broker.replicas))
    };
    if arguments.wait.until_done(client, &what, left).await? {
        let sentence = format!("drained broker {broker}: it may be stopped or removed");
        return output.done("drained", &object, &sentence);
    }
    let sentence = format!("{what}; `flumen cluster status` shows how far it is");
    output.done("draining", &object, &sentence)
}
