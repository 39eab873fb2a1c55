//! Where things are in the cluster, as clients need to know it.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{BrokerId, ShardId, TopicId},
    topic::{TopicConfig, TopicName},
};

/// Where things are in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The number of the catalog's last change that the broker which answers has applied: of two
    /// answers, the one with the higher number has the newer list of brokers.
    pub version: u64,
    /// The brokers.
    pub brokers: Vec<BrokerInfo>,
    /// The shards that partitions live in, all of them. What the broker knows of their
    /// leaders may be old; the higher term is the newer news.
    pub shards: Vec<ShardMetadata>,
    /// The topics that were asked for and exist.
    pub topics: Vec<TopicMetadata>,
    /// Bytes of the largest batch that the brokers take.
    pub batch_bytes_max: u32,
}

/// A broker and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// The broker.
    pub id: BrokerId,
    /// Its address for clients, `host:port`.
    pub address: String,
    /// Where it stands, such as a data centre, if it was told.
    pub zone: Option<String>,
}

/// What a client needs to know of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMetadata {
    /// The topic's name.
    pub name: TopicName,
    /// The topic.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// The shard that each partition lives in, by index: its leader and its replicas are
    /// those of the shard.
    pub shards: Vec<ShardId>,
}

/// Who leads a shard and who has a copy of it. Few shards hold many partitions, so that this
/// stays small, and what is learned of one partition is known of all in its shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMetadata {
    /// The shard.
    pub id: ShardId,
    /// The latest term that the broker knows of.
    pub term: u64,
    /// The leader in that term; `None` while there is none.
    pub leader: Option<BrokerId>,
    /// The brokers that have a copy, the leader among them.
    pub replicas: Vec<BrokerId>,
}
