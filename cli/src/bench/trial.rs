//! What the benchmarks of a cluster have in common: a cluster of their own with a topic on it,
//! clients that send one record after the other, and a report of how they fared.

use std::time::Duration;

use anyhow::{Context, Result};
use flumen_client::{Client, Message, Raw, TopicConfig};
use flumen_protocol::{ids::BrokerId, message::ClusterStatus};
use serde::Serialize;

use super::{cluster::Cluster, report};
use crate::{
    commands::bench::ClusterArguments,
    output::{OutputFormat, counted, write_fields},
};

/// The topic of a trial.
pub(super) const TOPIC: &str = "flumen-bench";

/// The wait between two sends of a producer: a client that waits, not one that loads the machine.
pub(super) const SEND_INTERVAL: Duration = Duration::from_millis(1);

/// What a benchmark finds out, to be serialised, and told in these fields.
pub(super) trait Findings: Serialize {
    fn fields(&self) -> Vec<(&'static str, String)>;
}

/// What is tried on what cluster.
pub(super) struct Trial<'a> {
    /// The benchmark's name.
    pub(super) bench: &'static str,
    /// How its figures come about.
    pub(super) method: &'static str,
    pub(super) cluster: &'a ClusterArguments,
    /// Partitions of the topic.
    pub(super) partitions: u32,
}

#[derive(Serialize)]
struct Report<F> {
    bench: &'static str,
    #[serde(flatten)]
    findings: F,
    brokers: u32,
    partitions: u32,
    method: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Trial<'_> {
    /// Starts the cluster, measures, stops it, and tells what was found.
    pub(super) async fn run<F: Findings>(
        self,
        output: OutputFormat,
        measure: impl AsyncFnOnce(&mut Cluster, &Client) -> Result<F>,
    ) -> Result<()> {
        let mut cluster = Cluster::start(self.cluster).await?;
        let measured = self.measure(&mut cluster, measure).await;
        cluster.stop().await?;
        self.tell(measured?, output)
    }

    async fn measure<F>(
        &self,
        cluster: &mut Cluster,
        measure: impl AsyncFnOnce(&mut Cluster, &Client) -> Result<F>,
    ) -> Result<F> {
        let client = cluster.connect().await?;
        let config = TopicConfig {
            partitions: self.partitions,
            ..TopicConfig::default()
        };
        client.admin().create_topic(TOPIC, config).await?;
        let findings = measure(cluster, &client).await?;
        client.close().await;
        Ok(findings)
    }

    fn tell<F: Findings>(self, findings: F, output: OutputFormat) -> Result<()> {
        let report = Report {
            bench: self.bench,
            findings,
            brokers: self.cluster.brokers,
            partitions: self.partitions,
            method: self.method,
            warnings: report::warnings(),
        };
        output.print(&report, |out| {
            let told = report.findings.fields();
            let cluster = format!(
                "{}, {}",
                counted(report.brokers.into(), "broker"),
                counted(report.partitions.into(), "partition")
            );
            let mut fields: Vec<(&str, &dyn std::fmt::Display)> =
                vec![("bench", &report.bench), ("cluster", &cluster)];
            fields.extend(told.iter().map(|(name, text)| (*name, text as _)));
            fields.push(("method", &report.method));
            fields.extend(report.warnings.iter().map(|text| ("warning", text as _)));
            write_fields(out, &fields)
        })
    }
}

/// The cluster once it is well, and who leads the first partition of the topic.
pub(super) async fn leader_when_well(
    cluster: &Cluster,
    client: &Client,
) -> Result<(ClusterStatus, BrokerId)> {
    let status = cluster.until_well(client).await?;
    let topic = client.admin().describe_topic(TOPIC).await?;
    let leader = topic.partitions[0].leader;
    Ok((status, leader.context("the partition has no leader")?))
}

/// A record that is sent to be acknowledged, and for nothing else.
pub(super) fn question(partition: u32) -> Message<Raw> {
    Message::new(Raw::from_static(b"are you there?")).partition(partition)
}
