//! `flumen topic alter`.

use anyhow::Result;
use flumen_protocol::topic::{TopicChanges, TopicName};
use serde_json::json;

use super::settings::SettingFlags;
use crate::{connect::Connection, failure::usage, hint::Named, output::OutputFormat, view};

const EXAMPLES: &str = "\
Examples:
  flumen topic alter orders --retention-age 90d
  # partitions can only be added; keys move: see below
  flumen topic alter orders --partitions 8
  flumen topic alter orders --retention-size unlimited

A key is mapped to one of all partitions. With more of them, records of a key that come later may go
to another partition than the earlier ones, which stay where they are: consumers see them in order
no more, and a compacted topic may keep a record of the key in both.";

/// Change the settings of a topic; what is not named stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    name: TopicName,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let name = &arguments.name;
    let changes = arguments.settings.changes();
    if changes == TopicChanges::default() {
        return Err(usage(
            "nothing to change: name a setting, such as --retention-age 90d",
        ));
    }
    let named = view::changes(&changes);
    let adds_partitions = changes.partitions.is_some();
    arguments
        .connection
        .admin(Named::topic(name), async |admin| {
            admin.alter_topic(name.as_str(), changes).await
        })
        .await?;
    if adds_partitions {
        anstream::eprintln!(
            "warning: new records of a key may go to another partition than the earlier ones, which \
             stay where they are"
        );
    }
    output.done(
        "altered",
        &json!({ "topic": name, "config": named }),
        &format!("altered topic {name}"),
    )
}
