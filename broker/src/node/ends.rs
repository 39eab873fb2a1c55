//! Where partitions end by all that was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flumen_protocol::{error::WireError, ids::Offset, topic::TopicName};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Node, remote};
use crate::catalog::Topic;

/// How long the leaders of partitions are asked for the ends. A client that is not told asks again,
/// and is not to be kept for longer than it is willing to wait, which may be a second.
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
        mut indexes: BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, Offset>, WireError> {
        let deadline = Instant::now() + ENDS_WAIT_MAX;
        let mut ends = BTreeMap::new();
        loop {
            let topic = self.topics.find(name).await?;
            ends.extend(self.ends_once(&topic, &indexes, deadline).await);
            let is_open =
                |index: &u32| *index < topic.config.partitions && !ends.contains_key(index);
            indexes.retain(is_open);
            if indexes.is_empty() {
                return Ok(ends);
            }
            if Instant::now() + ENDS_RETRY_AFTER > deadline {
                tracing::debug!(topic = %name, ?indexes, "the ends of partitions are not known");
                return Ok(ends);
            }
            sleep(ENDS_RETRY_AFTER).await;
        }
    }

    async fn ends_once(
        &self,
        topic: &Topic,
        wanted: &BTreeSet<u32>,
        deadline: Instant,
    ) -> Vec<(u32, Offset)> {
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
        let described = join_all(answers).await.into_iter().flatten();
        let ends = described.map(|partition| (partition.index, partition.end_offset));
        ends.collect()
    }
}
