//! `flumen topic create`.

use anyhow::Result;
use flumen_protocol::topic::{TopicConfig, TopicName};
use serde_json::json;

use super::settings::SettingFlags;
use crate::{
    connect::Connection,
    failure::usage,
    hint::Named,
    output::{self, OutputFormat},
};

const EXAMPLES: &str = "\
Examples:
  flumen topic create orders
  flumen topic create orders --partitions 4 --retention-age 30d --compression zstd
  flumen topic create prices --cleanup compact --retention-age forever";

/// Make a topic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic's name
    name: TopicName,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
    let config = arguments.settings.changes().apply(&TopicConfig::default());
    config
        .validate()
        .map_err(|error| usage(error.to_string()))?;
    arguments
        .connection
        .admin(Named::default(), async |admin| {
            admin.create_topic(name.as_str(), config.clone()).await
        })
        .await?;
    let partitions = output::counted(config.partitions.into(), "partition");
    output.done(
        "created",
        &json!({ "topic": name, "config": config }),
        &format!("created topic {name} with {partitions}"),
    )
}
