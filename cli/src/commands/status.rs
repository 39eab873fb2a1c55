//! `flumen status`: how the broker is.

use anyhow::{Result, bail};

use crate::{
    broker_names,
    connect::Connection,
    hint::Named,
    output::{OutputFormat, bytes, table, write_fields, write_table},
    view,
};

const EXAMPLES: &str = "\
Examples:
  flumen status
  flumen status --profile /var/lib/flumen/client.toml --output json

The exit code is 1 when the broker is not ready: when it takes no records, or does not reach a
majority of the brokers that vote on the catalog, or nobody who leads it.";

/// Show the state of the broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: &Arguments, output: OutputFormat) -> Result<()> {
    let (status, cluster) = arguments
        .connection
        .admin(Named::default(), async |admin| {
            let status = admin.status().await?;
            // Only for names beside ids.
            let cluster = admin.cluster_status().await.unwrap_or_default();
            Ok((status, cluster))
        })
        .await?;
    output.print(&view::BrokerDetails::from(&status), |out| {
        let wal = format!(
            "{} of {}, sync {}",
            bytes(status.wal_bytes),
            bytes(status.wal_bytes_max),
            status.wal_sync
        );
        let uptime =
            humantime::format_duration(std::time::Duration::from_secs(status.uptime_ms / 1000));
        let catalog = format!(
            "leader {}, term {}, applied {}",
            broker_names::leader(&cluster, status.catalog.leader),
            status.catalog.term,
            status.catalog.applied_index
        );
        let health = match (&status.degraded, &status.not_ready) {
            (Some(reason), _) => reason.clone(),
            (None, Some(reason)) => format!("not ready: {reason}"),
            (None, None) => "healthy".to_owned(),
        };
        write_fields(
            out,
            &[
                ("state", &health),
                ("broker", &status.id),
                ("version", &status.version),
                ("address", &status.address),
                ("up for", &uptime),
                ("write-ahead log", &wal),
                ("topics", &status.topics),
                ("partitions", &status.partitions),
                ("connections", &status.connections),
                ("catalog", &catalog),
                ("shards", &status.shards.len()),
            ],
        )?;
        writeln!(out)?;
        let mut shards = table(["SHARD", "LEADER", "TERM", "APPLIED", "PARTITIONS"]);
        for shard in &status.shards {
            shards.add_row([
                shard.id.to_string(),
                broker_names::leader(&cluster, shard.leader),
                shard.term.to_string(),
                shard.applied_index.to_string(),
                shard.partitions.to_string(),
            ]);
        }
        write_table(out, &shards)
    })?;
    match &status.not_ready {
        Some(reason) => bail!("broker {} is not ready: {reason}", status.id),
        None => Ok(()),
    }
}
