//! `flumen cluster drain`.

use anstream::eprintln;
use anyhow::Result;
use flumen_client::Client;
use flumen_protocol::message::{BrokerOverview, BrokerState};
use serde_json::json;

use super::{broker, wait::Wait};
use crate::{
    connect::Connection,
    output::{OutputFormat, counted},
};

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
    /// The broker: its id, four digits or more of its beginning, or its address
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
    let is_left =
        |other: &&BrokerOverview| other.id != broker.id && other.state == BrokerState::Active;
    let left_for_replicas = status.brokers.iter().filter(is_left).count() as u64;
    let factor = status.replication_factor;
    if left_for_replicas < factor.into() {
        eprintln!(
            "warning: {} left, and every shard should have {}: shards have fewer, and the cluster \
             is not healthy, until another broker joins or `flumen cluster drain {} --undo`",
            match left_for_replicas {
                1 => "1 broker is".to_owned(),
                several => format!("{several} brokers are"),
            },
            counted(factor.into(), "replica"),
            broker.id,
        );
    }
    let what = format!("draining broker {broker}");
    let left = |status: &_| {
        let broker = broker::by_id(status, broker.id)?;
        Ok(u64::from(broker.leaders) + u64::from(broker.replicas))
    };
    if let Some(status) = arguments.wait.until_done(client, &what, left).await? {
        let sentence = if status.lacks_replicas() {
            format!(
                "drained broker {broker}, but shards have fewer than {} complete: keep it running \
                 until `flumen cluster status` is healthy",
                counted(factor.into(), "replica")
            )
        } else {
            format!("drained broker {broker}: it may be stopped or removed")
        };
        return output.done("drained", &object, &sentence);
    }
    let sentence = format!("{what}; `flumen cluster status` shows how far it is");
    output.done("draining", &object, &sentence)
}
