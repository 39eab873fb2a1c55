//! Commands to shards, wherever they are led.

use flumen_protocol::{
    batch::Batch,
    ids::{PartitionId, ShardId, TopicId},
    topic::TopicConfig,
};
use futures_util::future::try_join_all;

use super::Shards;
use crate::{
    clock::now_ms,
    shard::{
        AppendError, Appended, ProposeError,
        raft::{Command, Response, forward, until_led},
    },
};

impl Shards {
    /// Makes partitions of a topic in a shard, wherever its replicas are; those that exist are
    /// left alone.
    pub async fn create_partitions(
        &self,
        shard: ShardId,
        topic: TopicId,
        indexes: Vec<u32>,
        config: &TopicConfig,
    ) -> Result<(), ProposeError> {
        let config = config.clone();
        let command = Command::CreatePartitions {
            topic,
            config,
            indexes,
        };
        self.propose(shard, command).await
    }

    /// Gives all partitions of a topic new settings.
    pub async fn configure_partitions(
        &self,
        topic: TopicId,
        config: &TopicConfig,
    ) -> Result<(), ProposeError> {
        self.propose_to_all(|| Command::ConfigurePartitions {
            topic,
            config: config.clone(),
        })
        .await
    }

    /// Removes all partitions of a topic with their records. Appends that come later are refused.
    pub async fn delete_partitions(&self, topic: TopicId) -> Result<(), ProposeError> {
        self.propose_to_all(|| Command::DeletePartitions { topic })
            .await
    }

    /// Appends batches, in their order, at whichever broker leads their partition, which is another
    /// one most likely. Tells what became of each.
    pub async fn append_at_leader(
        &self,
        partition: PartitionId,
        batches: Vec<Batch>,
    ) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        let with_partition = |batch| (partition, batch);
        let command = Command::Append {
            time_ms: now_ms(),
            batches: batches.into_iter().map(with_partition).collect(),
        };
        let response = self.propose_for(self.shard_of(partition), command).await;
        let Response::Appended(outcomes) = response.map_err(AppendError::from)? else {
            return Err(AppendError::Deposed);
        };
        let outcomes = outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|refusal| refusal.into_error(partition)));
        Ok(outcomes.collect())
    }

    async fn propose_to_all(&self, command: impl Fn() -> Command) -> Result<(), ProposeError> {
        let count = self.shared.catalog.snapshot().shard_count;
        let proposals = (1..=count).map(|id| self.propose(ShardId(id), command()));
        try_join_all(proposals).await.map(drop)
    }

    async fn propose(&self, shard: ShardId, command: Command) -> Result<(), ProposeError> {
        self.propose_for(shard, command).await.map(drop)
    }

    /// Proposes a command to whichever broker leads the shard.
    async fn propose_for(
        &self,
        shard: ShardId,
        command: Command,
    ) -> Result<Response, ProposeError> {
        if let Some(data) = self.data(shard) {
            return data.group().propose(command).await;
        }
        let network = &*self.shared.parts.raft.network;
        let command = &command;
        let propose = || async move {
            let leader = self.leader_of(shard).ok_or(ProposeError::NotLeader)?;
            forward(network, leader, shard, command).await
        };
        until_led(propose).await
    }
}
