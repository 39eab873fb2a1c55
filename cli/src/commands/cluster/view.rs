//! What `--output json` says of a cluster.

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::{BrokerOverview, ClusterStatus, ReplicaStatus, ShardOverview},
};
use serde::Serialize;

use super::tables::state;

/// A cluster and its brokers.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    cluster: &'a str,
    healthy: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
    replication_factor: u32,
    moves_left: u32,
    brokers: Vec<BrokerRow<'a>>,
}

/// A cluster, its brokers and its shards.
#[derive(Serialize)]
pub(super) struct Details<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    shards: Vec<ShardRow>,
}

#[derive(Serialize)]
struct BrokerRow<'a> {
    broker: BrokerId,
    address: &'a str,
    zone: Option<&'a str>,
    state: &'static str,
    degraded: Option<&'a str>,
    damaged_shards: u32,
    behind_shards: u32,
    version: Option<&'a str>,
    leaders: u32,
    replicas: u32,
    lag_records: u64,
    lag_bytes: u64,
    round_trip_us: Option<u64>,
}

#[derive(Serialize)]
struct ShardRow {
    shard: ShardId,
    leader: Option<BrokerId>,
    term: u64,
    partitions: u64,
    replicas: Vec<ReplicaRow>,
}

#[derive(Serialize)]
struct ReplicaRow {
    broker: BrokerId,
    voter: bool,
    lag_entries: Option<u64>,
    lag_records: u64,
    lag_bytes: u64,
}

impl<'a> From<&'a ClusterStatus> for Summary<'a> {
    fn from(status: &'a ClusterStatus) -> Self {
        let problems = status.problems();
        Self {
            cluster: &status.cluster,
            healthy: problems.is_empty(),
            problems,
            warnings: status.warnings(),
            replication_factor: status.replication_factor,
            moves_left: status.moves_left,
            brokers: status.brokers.iter().map(BrokerRow::from).collect(),
        }
    }
}

impl<'a> From<&'a ClusterStatus> for Details<'a> {
    fn from(status: &'a ClusterStatus) -> Self {
        Self {
            summary: status.into(),
            shards: status.shards.iter().map(ShardRow::from).collect(),
        }
    }
}

impl<'a> From<&'a BrokerOverview> for BrokerRow<'a> {
    fn from(broker: &'a BrokerOverview) -> Self {
        Self {
            broker: broker.id,
            address: &broker.address,
            zone: broker.zone.as_deref(),
            state: state(broker),
            degraded: broker.degraded.as_deref(),
            damaged_shards: broker.damaged_shards,
            behind_shards: broker.behind_shards,
            version: broker.version.as_deref(),
            leaders: broker.leaders,
            replicas: broker.replicas,
            lag_records: broker.lag_records,
            lag_bytes: broker.lag_bytes,
            round_trip_us: broker.round_trip_us,
        }
    }
}

impl From<&ShardOverview> for ShardRow {
    fn from(shard: &ShardOverview) -> Self {
        Self {
            shard: shard.id,
            leader: shard.leader,
            term: shard.term,
            partitions: shard.partitions,
            replicas: shard.replicas.iter().map(ReplicaRow::from).collect(),
        }
    }
}

impl From<&ReplicaStatus> for ReplicaRow {
    fn from(replica: &ReplicaStatus) -> Self {
        Self {
            broker: replica.broker,
            voter: replica.voter,
            lag_entries: replica.lag_entries,
            lag_records: replica.lag_records,
            lag_bytes: replica.lag_bytes,
        }
    }
}
