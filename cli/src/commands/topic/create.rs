//! `flumen topic create`.

use anyhow::Result;
use flumen_protocol::topic::{TopicConfig, TopicName};

use super::settings::SettingFlags;
use crate::{
    connect::Connection,
    failure::usage,
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
        .admin(async |admin| admin.create_topic(name.as_str(), config.clone()).await)
        .await?;
    output.done(&format!(
        "created topic {name} with {}",
        output::counted(config.partitions.into(), "partition")
    ))
}
