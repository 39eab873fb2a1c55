//! `flumen topic alter`.

use anyhow::Result;
use flumen_protocol::topic::{TopicChanges, TopicName};

use super::settings::SettingFlags;
use crate::{connect::Connection, failure::usage, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen topic alter orders --retention-age 90d
  flumen topic alter orders --partitions 8            partitions can only be added
  flumen topic alter orders --retention-size unlimited";

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
    arguments
        .connection
        .admin(async |admin| admin.alter_topic(name.as_str(), changes).await)
        .await?;
    output.done(&format!("changed topic {name}"))
}
