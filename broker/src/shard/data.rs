//! A data shard: a Raft group that holds partitions. How it comes and goes is in `lifecycle`, what
//! producers want of it in `append`.

mod append;
mod lifecycle;
mod machine;
mod manifest;
mod partition;
mod producers;
mod state;
mod transfer;

use std::sync::Arc;

use flumen_protocol::{
    ids::{PartitionId, ShardId, TopicId},
    message::ShardStatus,
    topic::TopicConfig,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    append::{AppendError, AppendRoom, Appended, PendingAppend},
    partition::{News, PartitionReader, Subscription},
    producers::{PRODUCERS_MAX, REMEMBERED_BATCHES},
};
pub(crate) use self::{
    append::{AppendOutcome, Refusal},
    lifecycle::DataShardParts,
    state::AppendedTotal,
    transfer::RecordServer,
};
use self::{machine::DataMachine, state::Directory, transfer::Served};
use super::{
    ProposeError, admission::Admission, command::Command, failure::Failure, group::Group,
    proposer::Proposer,
};
use crate::wal::Wal;

/// A data shard. Cheap to clone: all clones are the same shard.
#[derive(Clone)]
pub struct DataShard {
    shared: Arc<Shared>,
}

struct Shared {
    id: ShardId,
    group: Group,
    machine: Arc<DataMachine>,
    proposer: Arc<Proposer>,
    admission: Admission,
    directory: Directory,
    /// Other brokers find the records for as long as the shard lives.
    served: Served,
    failure: Failure,
    wal: Wal,
}

impl DataShard {
    /// The shard.
    pub fn id(&self) -> ShardId {
        self.shared.id
    }

    /// Makes partitions of a topic; those that exist are left alone.
    pub async fn create_partitions(
        &self,
        topic: TopicId,
        indexes: Vec<u32>,
        config: &TopicConfig,
    ) -> Result<(), ProposeError> {
        self.propose(Command::CreatePartitions {
            topic,
            config: config.clone(),
            indexes,
        })
        .await
    }

    /// Gives all partitions of a topic in this shard new settings.
    pub async fn configure_partitions(
        &self,
        topic: TopicId,
        config: &TopicConfig,
    ) -> Result<(), ProposeError> {
        self.propose(Command::ConfigurePartitions {
            topic,
            config: config.clone(),
        })
        .await
    }

    /// Removes all partitions of a topic in this shard, with their records. Appends that come
    /// later are refused.
    pub async fn delete_partitions(&self, topic: TopicId) -> Result<(), ProposeError> {
        self.propose(Command::DeletePartitions { topic }).await
    }

    /// A reader of a partition, if the shard holds it.
    pub fn reader(&self, partition: PartitionId) -> Option<PartitionReader> {
        let directory = self.shared.directory.read();
        let shared = directory.get(&partition)?;
        Some(PartitionReader::new(Arc::clone(shared)))
    }

    /// The partitions that the shard holds, in no order.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.shared.directory.read().keys().copied().collect()
    }

    /// What was ever appended, as far as it is applied here.
    pub(crate) fn appended(&self) -> AppendedTotal {
        self.shared.machine.appended()
    }

    /// The state of the shard.
    pub fn status(&self) -> ShardStatus {
        let (leader, term) = self.shared.group.leader();
        ShardStatus {
            id: self.shared.id,
            leader,
            term,
            applied_index: self.shared.group.applied_index(),
            partitions: self.shared.machine.appended().partitions,
        }
    }

    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        self.shared.group.propose(command).await.map(|_| ())
    }

    /// Whether this broker leads the shard, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.shared.group.leads()
    }

    pub(crate) fn group(&self) -> &Group {
        &self.shared.group
    }

    /// Applies retention and compaction to the logs, unless it is cancelled. Blocks on the disk,
    /// perhaps for long.
    pub(crate) fn look_after_logs(&self, now_ms: u64, cancelled: &CancellationToken) {
        self.shared.machine.look_after_logs(now_ms, cancelled);
    }
}

/// Whether the bytes are what a checkpoint of this kind of shard holds.
pub(super) fn is_manifest(bytes: &[u8]) -> bool {
    postcard::from_bytes::<manifest::Manifest>(bytes).is_ok()
}

/// The messages of this room, for the test that pins them; a checkpoint travels as a snapshot.
#[cfg(test)]
pub(super) fn add_messages(schema: &mut flumen_schema::Schema) {
    transfer::add_messages(schema);
    schema.add::<manifest::Manifest>();
}
