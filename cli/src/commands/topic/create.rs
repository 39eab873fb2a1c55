//! `flumen topic create`.

use anyhow::Result;
use flumen_broker::config::{ByteSize, Interval};
use flumen_protocol::topic::{TopicConfig, TopicName};
use serde_json::json;

use super::settings::{SettingFlags, cleanup_text};
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
  flumen topic create prices --cleanup compact --retention-age forever
  # in a script that may run again
  flumen topic create orders --if-not-exists";

/// The examples, and what a topic is unless told otherwise.
fn help() -> String {
    let config = TopicConfig::default();
    let limit = |limit: Option<String>, none: &str| limit.unwrap_or_else(|| none.to_owned());
    let age = config
        .retention_age_ms
        .map(|ms| Interval::from_millis(ms).to_string());
    let size = config
        .retention_bytes
        .map(|bytes| ByteSize::new(bytes).to_string());
    format!(
        "{EXAMPLES}\n\nUnless told otherwise: --partitions {} --retention-age {} --retention-size {} \
         --cleanup {} --tombstone-retention {} --compression {} --segment-size {}",
        config.partitions,
        limit(age, "forever"),
        limit(size, "unlimited"),
        cleanup_text(config.cleanup),
        Interval::from_millis(config.tombstone_retention_ms),
        config.compression,
        ByteSize::new(config.segment_bytes),
    )
}

/// Make a topic
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(crate) struct Arguments {
    /// The topic's name
    name: TopicName,
    #[command(flatten)]
    settings: SettingFlags,
    /// Leave a topic of that name as it is, whatever its settings, instead of failing
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
    let config = arguments.settings.changes().apply(&TopicConfig::default());
    config
        .validate()
        .map_err(|error| usage(error.to_string()))?;
    let is_made = arguments
        .connection
        .admin(Named::default(), async |admin| {
            if arguments.if_not_exists {
                admin.ensure_topic(name.as_str(), config.clone()).await
            } else {
                let made = admin.create_topic(name.as_str(), config.clone()).await;
                made.map(|()| true)
            }
        })
        .await?;
    if !is_made {
        return output.done(
            "exists",
            &json!({ "topic": name }),
            &format!("topic {name} exists already, and stays as it is"),
        );
    }
    let partitions = output::counted(config.partitions.into(), "partition");
    output.done(
        "created",
        &json!({ "topic": name, "config": config }),
        &format!("created topic {name} with {partitions}"),
    )
}
