//! The state of one broker.

use serde::{Deserialize, Serialize};

use crate::ids::{BrokerId, ShardId};

/// The state of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// The broker.
    pub id: BrokerId,
    /// Its software version.
    pub version: String,
    /// Its address for clients.
    pub address: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// When an acknowledgement is given: `always` or `every 100ms`.
    pub wal_sync: String,
    /// Bytes of the write-ahead log in use.
    pub wal_bytes: u64,
    /// The most bytes that the write-ahead log may use.
    pub wal_bytes_max: u64,
    /// Topics in the cluster.
    pub topics: u64,
    /// Partitions on this broker.
    pub partitions: u64,
    /// Open client connections.
    pub connections: u64,
    /// That it takes no records at the moment, or soon will not, or that no other broker reaches it,
    /// and why, as the rest of a sentence about it: `takes no records: the disk is full`.
    pub degraded: Option<String>,
    /// Why the broker should get no traffic at the moment, as `/readyz` has it: what `degraded`
    /// says, or that it does not reach a majority or a leader of the catalog.
    pub not_ready: Option<String>,
    /// The Raft group of the cluster's metadata; no partition lives in it.
    pub catalog: ShardStatus,
    /// The shards that partitions live in, and their leaders.
    pub shards: Vec<ShardStatus>,
}

/// The state of a shard on a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub id: ShardId,
    /// Its leader, if one is heard of.
    pub leader: Option<BrokerId>,
    /// The term of the leader.
    pub term: u64,
    /// The last entry applied.
    pub applied_index: u64,
    /// Partitions that live in it.
    pub partitions: u64,
}
