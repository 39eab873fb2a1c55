//! `flumen topic describe`.

use anyhow::Result;
use flumen_protocol::topic::TopicName;

use super::settings::{cleanup_text, retention_text};
use crate::{
    commands::plugin::bindings_table,
    connect::Connection,
    hint::Named,
    output::{OutputFormat, bytes, count, or_dash, table, time, write_fields, write_table},
    view,
};

const EXAMPLES: &str = "\
Examples:
  flumen topic describe orders
  flumen topic describe orders --output json | jq '[.partitions[].end_offset] | add'";

/// Show a topic with its partitions and plugins
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    name: TopicName,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let topic = arguments
        .connection
        .admin(Named::topic(&arguments.name), async |admin| {
            admin.describe_topic(arguments.name.as_str()).await
        })
        .await?;
    output.print(&view::TopicDetails::from(&topic), |out| {
        let partitions = &topic.partitions;
        let records: u64 = partitions
            .iter()
            .map(|p| p.end_offset.0.saturating_sub(p.start_offset.0))
            .sum();
        let size: u64 = partitions.iter().map(|p| p.size_bytes).sum();
        write_fields(
            out,
            &[
                ("topic", &topic.name),
                ("created", &time(topic.created_ms as i64)),
                ("records", &format!("{} in {}", count(records), bytes(size))),
                ("retention", &retention_text(&topic.config)),
                ("cleanup", &cleanup_text(topic.config.cleanup)),
                ("compression", &topic.config.compression),
                ("segment size", &bytes(topic.config.segment_bytes)),
            ],
        )?;
        writeln!(out)?;
        let mut table = table(["PARTITION", "SHARD", "LEADER", "START", "END", "SIZE"]);
        for partition in partitions {
            table.add_row([
                partition.index.to_string(),
                partition.shard.to_string(),
                or_dash(partition.leader),
                partition.start_offset.to_string(),
                partition.end_offset.to_string(),
                bytes(partition.size_bytes),
            ]);
        }
        write_table(out, &table)?;
        if !topic.bindings.is_empty() {
            writeln!(out)?;
            write_table(out, &bindings_table(&topic.bindings))?;
        }
        Ok(())
    })
}
