//! The state of a cluster as people read it.

use std::io::Write;

use anyhow::{Result, bail};
use comfy_table::Table;
use flumen_protocol::message::{BrokerOverview, BrokerState, ClusterStatus};

use crate::{
    broker_names,
    output::{bytes, count, counted, or_dash, table, write_fields},
};

/// What stands above the tables.
pub(super) fn write_summary(out: &mut dyn Write, status: &ClusterStatus) -> Result<()> {
    let problems = status.problems();
    let health = match problems.len() {
        0 => "healthy".to_owned(),
        _ => format!("not healthy: {}", problems.join("; ")),
    };
    let moving = match status.moves_left {
        0 => "nothing".to_owned(),
        1 => "1 leader or replica".to_owned(),
        left => format!("{left} leaders or replicas"),
    };
    let data_shards = status.shards.iter().filter(|shard| shard.id.0 != 0).count();
    let warnings = status.warnings().join("; ");
    let mut fields: Vec<(&str, &dyn std::fmt::Display)> = vec![("state", &health)];
    if !warnings.is_empty() {
        fields.push(("warning", &warnings));
    }
    fields.extend_from_slice(&[
        ("cluster", &status.cluster),
        ("replicas of each shard", &status.replication_factor),
        ("shards", &data_shards),
        ("to be moved", &moving),
    ]);
    write_fields(out, &fields)
}

/// Fails when something is wrong, for the exit code.
pub(super) fn fail_unless_healthy(status: &ClusterStatus) -> Result<()> {
    let problems = status.problems();
    if !problems.is_empty() {
        bail!("the cluster is not healthy: {}", problems.join("; "));
    }
    Ok(())
}

/// A line for each broker.
pub(super) fn brokers_table(status: &ClusterStatus) -> Table {
    let mut table = table([
        "BROKER",
        "ADDRESS",
        "ZONE",
        "STATE",
        "VERSION",
        "LEADERS",
        "REPLICAS",
        "LAG",
        "ROUND TRIP",
    ]);
    for broker in &status.brokers {
        table.add_row([
            broker.id.to_string(),
            broker.address.clone(),
            or_dash(broker.zone.as_ref()),
            state(broker).to_owned(),
            or_dash(broker.version.as_ref()),
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            lag(broker.lag_records, broker.lag_bytes),
            or_dash(broker.round_trip_us.map(milliseconds)),
        ]);
    }
    table
}

/// A line for each shard.
pub(super) fn shards_table(status: &ClusterStatus) -> Table {
    let mut table = table(["SHARD", "LEADER", "TERM", "PARTITIONS", "REPLICAS", "LAG"]);
    for shard in &status.shards {
        let name = match shard.id.0 {
            0 => "catalog".to_owned(),
            _ => shard.id.to_string(),
        };
        let (records, in_bytes) = shard.replicas.iter().fold((0, 0), |(records, bytes), r| {
            (records.max(r.lag_records), bytes.max(r.lag_bytes))
        });
        table.add_row([
            name,
            broker_names::leader(status, shard.leader),
            shard.term.to_string(),
            count(shard.partitions),
            broker_names::replicas(status, &shard.replicas),
            lag(records, in_bytes),
        ]);
    }
    table
}

/// How a broker is, in one word.
pub(super) fn state(broker: &BrokerOverview) -> &'static str {
    match broker.state {
        BrokerState::Removed => "removed",
        _ if !broker.reachable => "unreachable",
        _ if broker.degraded.is_some() => "degraded",
        BrokerState::Draining if broker.is_drained() => "drained",
        BrokerState::Draining => "draining",
        _ => "active",
    }
}

fn lag(records: u64, in_bytes: u64) -> String {
    match (records, in_bytes) {
        (0, 0) => "-".to_owned(),
        _ => format!("{}, {}", counted(records, "record"), bytes(in_bytes)),
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.2} ms", microseconds as f64 / 1e3)
}
