//! `flumen topic delete`.

use anyhow::Result;
use flumen_protocol::topic::TopicName;
use serde_json::json;

use super::describe::records_text;
use crate::{
    confirm::Confirmation,
    connect::Connection,
    hint::Named,
    output::{OutputFormat, counted},
};

const EXAMPLES: &str = "\
Examples:
  flumen topic delete orders
  flumen topic delete orders --yes

On a terminal, it asks first, and says what the topic has.";

/// Delete a topic with all of its records, at once and for good
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    name: TopicName,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
    if arguments.confirmation.is_needed() {
        ask(&arguments).await?;
    }
    arguments
        .connection
        .admin(Named::topic(name), async |admin| {
            admin.delete_topic(name.as_str()).await
        })
        .await?;
    output.done(
        "deleted",
        &json!({ "topic": name }),
        &format!("deleted topic {name}"),
    )
}

/// Asks whether it is meant so. The connection is not held open for as long as that takes.
async fn ask(arguments: &Arguments) -> Result<()> {
    let name = &arguments.name;
    let topic = arguments
        .connection
        .admin(Named::topic(name), async |admin| {
            admin.describe_topic(name.as_str()).await
        })
        .await?;
    let question = format!(
        "Delete topic {name} for good, with {} and all of its records ({})?",
        counted(topic.partitions.len() as u64, "partition"),
        records_text(&topic.partitions),
    );
    arguments.confirmation.ask(question).await
}
