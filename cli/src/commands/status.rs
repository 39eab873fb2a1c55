//! `flumen status`: how the broker is.

use anyhow::Result;

use crate::{
    connect::Connection,
    output::{OutputFormat, bytes, table, write_fields, write_table},
};

const EXAMPLES: &str = "\
Examples:
  flumen status
  flumen status --profile /var/lib/flumen/client.toml --output json";

/// Show the state of the broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: &Arguments, output: OutputFormat) -> Result<()> {
    let status = arguments
        .connection
        .admin(async |admin| admin.status().await)
        .await?;
    output.print(&status, |out| {
        let wal = format!(
            "{} of {}, sync {}",
            bytes(status.wal_bytes),
            bytes(status.wal_bytes_max),
            status.wal_sync
        );
        let uptime =
            humantime::format_duration(std::time::Duration::from_secs(status.uptime_ms / 1000));
        let health = match &status.degraded {
            Some(reason) => format!("takes no records: {reason}"),
            None => "healthy".to_owned(),
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
            ],
        )?;
        writeln!(out)?;
        let mut shards = table(["SHARD", "LEADER", "TERM", "APPLIED", "PARTITIONS"]);
        for shard in &status.shards {
            let leader = shard
                .leader
                .map_or_else(|| "-".to_owned(), |id| id.to_string());
            shards.add_row([
                shard.id.to_string(),
                leader,
                shard.term.to_string(),
                shard.applied_index.to_string(),
                shard.partitions.to_string(),
            ]);
        }
        write_table(out, &shards)
    })
}
