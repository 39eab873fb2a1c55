//! The state of the whole cluster.

use serde::{Deserialize, Serialize};

pub use self::health::{IN_STEP_LAG_BYTES_MAX, catalog_voters};
use crate::ids::{BrokerId, ShardId};

mod health;

/// The state of the cluster, as the broker that answers knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster, as its brokers name it in certificates.
    pub cluster: String,
    /// The broker that answers; round trips are measured from it.
    pub answered_by: BrokerId,
    /// How many replicas every shard should have. Fewer brokers than that is a defect.
    pub replication_factor: u32,
    /// Replicas and leaders that are still to be moved until all stand where they should.
    pub moves_left: u32,
    /// The brokers, also those that are draining, and those removed that are still remembered.
    pub brokers: Vec<BrokerOverview>,
    /// The Raft groups, the catalog (shard 0) first.
    pub shards: Vec<ShardOverview>,
}

/// A broker as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerOverview {
    /// The broker.
    pub id: BrokerId,
    /// Its address for clients.
    pub address: String,
    /// Where it stands, if it was told.
    pub zone: Option<String>,
    /// What the cluster has decided about it.
    pub state: BrokerState,
    /// Whether the broker that answers can reach it.
    pub reachable: bool,
    /// Its software version, once it was heard.
    pub version: Option<String>,
    /// Shards that it leads.
    pub leaders: u32,
    /// Shards that it has a copy of. Of one that is draining, the catalog counts as well for as long
    /// as it votes there.
    pub replicas: u32,
    /// Records by which its copies are behind their leaders, all together.
    pub lag_records: u64,
    /// Bytes by which its copies are behind their leaders, all together.
    pub lag_bytes: u64,
    /// The last measured round trip to it in microseconds.
    pub round_trip_us: Option<u64>,
    /// That it takes no records at the moment, or soon will not, and why, as the rest of a sentence
    /// about it: `takes no records: the disk is full`.
    pub degraded: Option<String>,
    /// Shards whose files are damaged there, and are or should be repaired from other brokers.
    pub damaged_shards: u32,
    /// Copies that do not get to where their leaders were half a minute ago: they are stuck, or too
    /// slow.
    pub behind_shards: u32,
}

/// What the cluster has decided about a broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BrokerState {
    /// It may have leaders and replicas.
    #[default]
    Active,
    /// Leaders and replicas are taken away from it; it has none left once it is drained.
    Draining,
    /// It is no part of the cluster any more.
    Removed,
}

/// A Raft group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardOverview {
    /// The shard; 0 is the catalog.
    pub id: ShardId,
    /// Its leader; `None` while there is none.
    pub leader: Option<BrokerId>,
    /// The latest term that is known.
    pub term: u64,
    /// Partitions that live in it.
    pub partitions: u64,
    /// Its copies.
    pub replicas: Vec<ReplicaStatus>,
}

/// A copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The broker that has it.
    pub broker: BrokerId,
    /// Whether it counts for a majority; otherwise it is still being filled, or on its way out.
    pub voter: bool,
    /// Entries of the Raft log that it does not have yet; `None` when the leader does not know.
    pub lag_entries: Option<u64>,
    /// Records in them.
    pub lag_records: u64,
    /// Bytes in them, or left of the snapshot that it receives.
    pub lag_bytes: u64,
}

/// A healthy cluster: so many brokers, and the catalog and two shards on each of them.
#[cfg(test)]
fn sample(brokers: u64) -> ClusterStatus {
    let broker = |id: u64| BrokerOverview {
        id: BrokerId(id),
        address: format!("broker-{id}:4650"),
        zone: None,
        state: BrokerState::Active,
        reachable: true,
        version: Some("0.1.0".to_owned()),
        leaders: 1,
        replicas: 2,
        lag_records: 0,
        lag_bytes: 0,
        round_trip_us: Some(80),
        degraded: None,
        damaged_shards: 0,
        behind_shards: 0,
    };
    let replica = |id: u64| ReplicaStatus {
        broker: BrokerId(id),
        voter: true,
        lag_entries: Some(0),
        lag_records: 0,
        lag_bytes: 0,
    };
    let shard = |id: u32| ShardOverview {
        id: ShardId(id),
        leader: Some(BrokerId(1)),
        term: 1,
        partitions: 10,
        replicas: (1..=brokers).map(replica).collect(),
    };
    ClusterStatus {
        cluster: "test".to_owned(),
        answered_by: BrokerId(1),
        replication_factor: brokers as u32,
        moves_left: 0,
        brokers: (1..=brokers).map(broker).collect(),
        shards: (0..3).map(shard).collect(),
    }
}
