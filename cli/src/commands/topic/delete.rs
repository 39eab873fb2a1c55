//! `flumen topic delete`.

use anyhow::Result;
use flumen_protocol::topic::TopicName;
use serde_json::json;

use crate::{connect::Connection, hint::Named, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen topic delete orders";

/// Delete a topic with all of its records, at once and for good
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    name: TopicName,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
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
