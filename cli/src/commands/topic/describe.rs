//! `flumen topic describe`.

use std::io::Write;

use anyhow::Result;
use flumen_protocol::{
    message::{ClusterStatus, PartitionDescription, TopicDescription},
    topic::TopicName,
};

use super::settings::{cleanup_text, retention_text};
use crate::{
    broker_names,
    commands::plugin::bindings_table,
    connect::Connection,
    hint::Named,
    output::{
        OutputFormat, bytes, count, counted, or_dash, table, time, write_fields, write_table,
    },
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
    let (topic, cluster) = arguments
        .connection
        .admin(Named::topic(&arguments.name), async |admin| {
            let topic = admin.describe_topic(arguments.name.as_str()).await?;
            // Only for names beside ids, and for replicas.
            let cluster = admin.cluster_status().await.unwrap_or_default();
            Ok((topic, cluster))
        })
        .await?;
    output.print(&view::TopicDetails::new(&topic, &cluster), |out| {
        write(out, &topic, &cluster)
    })
}

fn write(out: &mut dyn Write, topic: &TopicDescription, cluster: &ClusterStatus) -> Result<()> {
    write_fields(
        out,
        &[
            ("topic", &topic.name),
            ("created", &time(topic.created_ms as i64)),
            ("records", &records_text(&topic.partitions)),
            ("retention", &retention_text(&topic.config)),
            ("cleanup", &cleanup_text(topic.config.cleanup)),
            ("compression", &topic.config.compression),
            ("segment size", &bytes(topic.config.segment_bytes)),
        ],
    )?;
    writeln!(out)?;
    let mut table = table([
        "PARTITION",
        "SHARD",
        "LEADER",
        "REPLICAS",
        "START",
        "END",
        "SIZE",
    ]);
    for partition in &topic.partitions {
        let extent = partition.extent;
        table.add_row([
            partition.index.to_string(),
            partition.shard.to_string(),
            broker_names::leader(cluster, partition.leader),
            or_dash(
                broker_names::replicas_of(cluster, partition.shard)
                    .map(|replicas| broker_names::replicas(cluster, replicas)),
            ),
            or_dash(extent.map(|extent| extent.start_offset)),
            or_dash(extent.map(|extent| extent.end_offset)),
            or_dash(extent.map(|extent| bytes(extent.size_bytes))),
        ]);
    }
    write_table(out, &table)?;
    if !topic.bindings.is_empty() {
        writeln!(out)?;
        write_table(out, &bindings_table(&topic.bindings))?;
    }
    Ok(())
}

/// How much there is, and of how many partitions that is not known.
pub(super) fn records_text(partitions: &[PartitionDescription]) -> String {
    let extents = || partitions.iter().filter_map(|partition| partition.extent);
    let records = extents().map(|extent| extent.end_offset.0.saturating_sub(extent.start_offset.0));
    let (records, size) = (
        records.sum(),
        extents().map(|extent| extent.size_bytes).sum(),
    );
    let text = format!("{} in {}", count(records), bytes(size));
    match partitions.len() - extents().count() {
        0 => text,
        unknown => format!(
            "{text}, and those of {} whose leader does not answer",
            counted(unknown as u64, "partition")
        ),
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::{
        ids::{BrokerId, Offset, ShardId, TopicId},
        message::PartitionExtent,
        topic::TopicConfig,
    };

    use super::*;

    #[test]
    fn what_is_not_known_of_a_partition_is_a_dash_and_null() {
        let partition = |index, extent| PartitionDescription {
            index,
            shard: ShardId(1),
            leader: Some(BrokerId(7)),
            extent,
        };
        let known = PartitionExtent {
            start_offset: Offset(2),
            end_offset: Offset(12),
            size_bytes: 100,
        };
        let topic = TopicDescription {
            name: "orders".parse().unwrap(),
            id: TopicId(1),
            config: TopicConfig::default(),
            created_ms: 0,
            partitions: vec![partition(0, Some(known)), partition(1, None)],
            bindings: Vec::new(),
        };
        let mut text = Vec::new();
        let cluster = ClusterStatus::default();
        write(&mut text, &topic, &cluster).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("10 in 100 B, and those of 1 partition whose leader does not answer"),
            "{text}"
        );
        let rows = text.lines().map(|line| line.split_whitespace().collect());
        let rows: Vec<Vec<_>> = rows.collect();
        assert!(
            rows.contains(&vec!["0", "1", "7", "-", "2", "12", "100", "B"]),
            "{text}"
        );
        assert!(
            rows.contains(&vec!["1", "1", "7", "-", "-", "-", "-"]),
            "{text}"
        );

        let json = serde_json::to_value(view::TopicDetails::new(&topic, &cluster)).unwrap();
        let ends: Vec<_> = [0, 1]
            .map(|at| &json["partitions"][at]["end_offset"])
            .into();
        assert_eq!(ends, [&serde_json::json!(12), &serde_json::Value::Null]);
        assert!(json["partitions"][0]["leader_address"].is_null());
        assert!(json["partitions"][0]["replicas"].is_null());
    }
}
