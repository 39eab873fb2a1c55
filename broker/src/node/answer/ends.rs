//! Where partitions begin and end by all that was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flumen_protocol::{
    error::WireError,
    ids::Offset,
    message::{PartitionDescription, TopicDescription},
    topic::TopicName,
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};

use crate::catalog::Topic;
use crate::node::{Node, remote};

/// How long the leaders of partitions are asked. A client that is not told asks again, and is not to
/// be kept for longer than it is willing to wait, which may be a second.
const ENDS_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long to wait before who did not answer, or leads by now, is asked.
const ENDS_RETRY_AFTER: Duration = Duration::from_millis(50);

impl Node {
    /// Where partitions end as their leaders know it, wherever those are: what a replica here has
    /// may be less, and must not be taken for the end. Those are missing whose leader cannot be
    /// found or does not answer; without a majority an end cannot be known, and what is here can be
    /// read all the same.
    pub(crate) async fn ends(
        &self,
        name: &TopicName,
        indexes: BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, Offset>, WireError> {
        let described = self.describe_partitions(name, indexes).await?.into_iter();
        let ends = described.filter_map(|(index, partition)| {
            let extent = partition.extent?;
            Some((index, extent.end_offset))
        });
        Ok(ends.collect())
    }

    /// A topic with its partitions and bindings; each partition as its leader knows it, if that
    /// answers.
    pub(in crate::node) async fn describe_topic(
        &self,
        name: &TopicName,
    ) -> Result<TopicDescription, WireError> {
        let topic = self.topics.find(name).await?;
        let indexes = 0..topic.config.partitions;
        let mut described = self
            .describe_partitions(name, indexes.clone().collect())
            .await?;
        let described = indexes.map(|index| {
            let known = described.remove(&index);
            known.unwrap_or_else(|| self.topics.describe_unknown(&topic, index))
        });
        Ok(TopicDescription {
            name: name.clone(),
            id: topic.id,
            partitions: described.collect(),
            bindings: self.plugins.bindings_of(name),
            created_ms: topic.created_ms,
            config: topic.config.clone(),
        })
    }

    /// Those of the partitions that their leaders have told of.
    async fn describe_partitions(
        &self,
        name: &TopicName,
        mut indexes: BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, PartitionDescription>, WireError> {
        let deadline = Instant::now() + ENDS_WAIT_MAX;
        let mut known = BTreeMap::new();
        loop {
            let topic = self.topics.find(name).await?;
            let described = self.ask_leaders(&topic, &indexes, deadline).await;
            let told = described.into_iter().filter(|p| p.extent.is_some());
            known.extend(told.map(|partition| (partition.index, partition)));
            let is_open =
                |index: &u32| *index < topic.config.partitions && !known.contains_key(index);
            indexes.retain(is_open);
            if indexes.is_empty() {
                return Ok(known);
            }
            if Instant::now() + ENDS_RETRY_AFTER > deadline {
                tracing::debug!(topic = %name, ?indexes, "the ends of partitions are not known");
                return Ok(known);
            }
            sleep(ENDS_RETRY_AFTER).await;
        }
    }

    async fn ask_leaders(
        &self,
        topic: &Topic,
        wanted: &BTreeSet<u32>,
        deadline: Instant,
    ) -> Vec<PartitionDescription> {
        let name = &topic.name;
        let by_leader = self.topics.by_leader(topic).into_iter();
        let asked = by_leader.filter_map(|(leader, mut indexes)| {
            indexes.retain(|index| wanted.contains(index));
            leader.filter(|_| !indexes.is_empty()).map(|l| (l, indexes))
        });
        let answers = asked.map(|(leader, indexes)| async move {
            let describe = async {
                if leader == self.shards.broker() {
                    self.topics.describe_led(name, &indexes).await
                } else {
                    remote::describe(&*self.network, leader, name, &indexes).await
                }
            };
            match timeout_at(deadline, describe).await {
                Ok(Ok(described)) => described,
                Ok(Err(error)) => {
                    tracing::debug!(topic = %name, %leader, %error, "an end is not known yet");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        });
        join_all(answers).await.into_iter().flatten().collect()
    }
}
