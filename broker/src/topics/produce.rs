//! Where produce streams hand their batches to.

use flumen_protocol::{
    batch::Batch,
    error::WireError,
    ids::{PartitionId, TopicId},
    topic::TopicName,
};

use super::{Topics, partition};
use crate::shard::{DataShard, PendingAppend, ProposeError};

/// A partition that is produced to.
pub struct ProduceTarget {
    /// The topic.
    pub topic: TopicId,
    /// The partition's index.
    pub index: u32,
    shard: DataShard,
}

impl ProduceTarget {
    /// Refuses what would be refused anyway, before plugins have seen it and what they send elsewhere
    /// is stored: this broker does not lead the partition, or cannot write it.
    pub fn check(&self, topics: &Topics) -> Result<(), WireError> {
        if !self.shard.leads() {
            return Err(topics.not_leader(self.partition(), &ProposeError::NotLeader));
        }
        Ok(self.shard.check_partition(self.partition())?)
    }

    fn partition(&self) -> PartitionId {
        PartitionId {
            topic: self.topic,
            index: self.index,
        }
    }

    /// Hands a batch to the shard: batches reach the log in the order of these calls. Waits
    /// while the shard has too much to do.
    pub async fn append(&self, batch: Batch) -> Result<PendingAppend, WireError> {
        self.shard.check_partition(self.partition())?;
        let room = self.shard.make_room(batch.encoded_len()).await?;
        Ok(room.append(self.partition(), batch))
    }
}

impl Topics {
    /// The partition that a produce stream names.
    pub async fn target(&self, name: &TopicName, index: u32) -> Result<ProduceTarget, WireError> {
        let topic = self.find_with(name, &[index]).await?;
        let partition = partition(&topic, index);
        Ok(ProduceTarget {
            topic: topic.id,
            index,
            shard: self.replica(partition)?,
        })
    }
}
