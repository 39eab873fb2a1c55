//! Topics as people look at them.

use serde::{Deserialize, Serialize};

use super::BindingStatus;
use crate::{
    ids::{BrokerId, Offset, ShardId, TopicId},
    topic::{Name, TopicConfig, TopicName},
};

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSummary {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Names of the plugins bound to it, in order.
    pub plugins: Vec<Name>,
}

/// A topic with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// The topic.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionDescription>,
    /// The plugins bound to it, in the order in which they run.
    pub bindings: Vec<BindingStatus>,
}

/// The state of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDescription {
    /// Its index in the topic.
    pub index: u32,
    /// The shard that it lives in.
    pub shard: ShardId,
    /// The broker that leads the shard, as far as that is known.
    pub leader: Option<BrokerId>,
    /// What the leader has of it. Not known while nobody leads it, or the leader does not answer.
    pub extent: Option<PartitionExtent>,
}

/// What there is of a partition, with all that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionExtent {
    /// The offset of its oldest record.
    pub start_offset: Offset,
    /// The offset that the next record gets.
    pub end_offset: Offset,
    /// Bytes on disk and waiting to be written.
    pub size_bytes: u64,
}
