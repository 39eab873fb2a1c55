//! `flumen topic list`.

use anyhow::Result;
use flumen_protocol::topic::TopicName;

use super::settings::{cleanup_text, retention_text};
use crate::{
    connect::Connection,
    hint::Named,
    output::{OutputFormat, table, write_table},
    view,
};

const EXAMPLES: &str = "\
Examples:
  flumen topic list
  flumen topic list --output json | jq -r '.[].topic'";

/// List all topics
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let topics = arguments
        .connection
        .admin(Named::default(), async |admin| admin.list_topics().await)
        .await?;
    let rows: Vec<_> = topics.iter().map(view::TopicRow::from).collect();
    output.print(&rows, |out| {
        if topics.is_empty() {
            eprintln!("There are no topics yet; `flumen topic create NAME` makes one.");
            return Ok(());
        }
        let mut table = table([
            "NAME",
            "PARTITIONS",
            "RETENTION",
            "CLEANUP",
            "COMPRESSION",
            "PLUGINS",
        ]);
        for topic in &topics {
            let plugins: Vec<_> = topic.plugins.iter().map(TopicName::as_str).collect();
            table.add_row([
                topic.name.as_str(),
                &topic.config.partitions.to_string(),
                &retention_text(&topic.config),
                cleanup_text(topic.config.cleanup),
                &topic.config.compression.to_string(),
                &plugins.join(","),
            ]);
        }
        write_table(out, &table)
    })
}
