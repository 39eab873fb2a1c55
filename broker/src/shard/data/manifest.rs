//! What a data shard's checkpoint says: what the partition logs hold, and up to which entry of
//! the Raft log that is.

use flumen_protocol::{
    ids::{Offset, PartitionId, TopicId},
    topic::TopicConfig,
};
use serde::{Deserialize, Serialize};

use super::producers::SavedProducer;
use crate::{log::LogCheckpoint, shard::machine::Applied};

/// What a data shard's checkpoint says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Up to where the Raft log is in it.
    pub(super) applied: Applied,
    pub(super) topics: Vec<SavedTopic>,
    pub(super) producers: Vec<SavedProducer>,
    /// Records that were ever appended.
    pub(super) records: u64,
    /// Bytes of their batches.
    pub(super) bytes: u64,
}

/// A topic's partitions in this shard. The settings are kept once for all of them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedTopic {
    pub(super) id: TopicId,
    pub(super) config: TopicConfig,
    pub(super) partitions: Vec<SavedPartition>,
}

impl SavedTopic {
    /// Which partition it is that is saved.
    pub(super) fn partition(&self, saved: &SavedPartition) -> PartitionId {
        PartitionId {
            topic: self.id,
            index: saved.index,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPartition {
    pub(super) index: u32,
    /// The offset of the next record at `applied`.
    pub(super) end_offset: Offset,
    /// The log's files, as far as they belong to it.
    pub(super) checkpoint: LogCheckpoint,
}
