//! What the brokers of a cluster share: topics, records, and who leads.

use std::collections::{BTreeMap, VecDeque};

use flumen_client::TopicConfig;
use flumen_protocol::{
    error::{ErrorCode, LeaderHint, WireError},
    ids::{BrokerId, Offset, ShardId, TopicId},
    limits::BATCH_BYTES_MAX,
    message::{
        BrokerInfo, Metadata, PartitionDescription, PartitionExtent, ShardMetadata,
        TopicDescription, TopicMetadata, TopicSummary,
    },
    topic::Name,
};

use super::{
    fault::{ConsumeFault, Fault},
    partition::Partition,
};

/// Shards of a cluster: few, so that partitions share them, and more than one.
const SHARDS: u32 = 2;

pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) config: TopicConfig,
    pub(super) partitions: Vec<Partition>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) consume_faults: VecDeque<ConsumeFault>,
    pub(super) batches_received: usize,
    pub(super) token: Option<String>,
    pub(super) next_topic: u64,
    pub(super) keeps_nothing: bool,
    /// Rises with every change of `brokers`.
    pub(super) version: u64,
    pub(super) brokers: Vec<BrokerInfo>,
    pub(super) shards: Vec<ShardMetadata>,
    /// Records at the ends of partitions that a broker does not have yet.
    pub(super) behind: BTreeMap<BrokerId, u64>,
    /// Brokers that hear of nobody: they know no leader, of any later term either.
    pub(super) isolated: BTreeMap<BrokerId, Vec<ShardMetadata>>,
    /// How often a topic was described.
    pub(super) descriptions: usize,
}

impl State {
    pub(super) fn create(&mut self, name: &str, config: TopicConfig) {
        self.next_topic += 1;
        let mut partitions = Vec::new();
        partitions.resize_with(config.partitions as usize, Partition::default);
        let topic = Topic {
            id: TopicId(self.next_topic),
            config,
            partitions,
        };
        self.topics.insert(name.to_owned(), topic);
    }

    /// An error if the topic is another one than is meant.
    pub(super) fn check_topic(&self, name: &str, id: Option<TopicId>) -> Result<(), WireError> {
        let topic = self.topics.get(name);
        match id.zip(topic) {
            Some((id, topic)) if id != topic.id => {
                Err(WireError::new(ErrorCode::Unavailable, "made anew"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn partition(
        &mut self,
        topic: &str,
        index: u32,
    ) -> Result<&mut Partition, WireError> {
        let Some(found) = self.topics.get_mut(topic) else {
            return Err(WireError::new(
                ErrorCode::UnknownTopic,
                format!("no topic {topic}"),
            ));
        };
        let partition = found.partitions.get_mut(index as usize);
        partition.ok_or_else(|| WireError::new(ErrorCode::UnknownPartition, "no such partition"))
    }

    /// Makes a cluster of these brokers; the first one leads everything.
    pub(super) fn found(&mut self, brokers: Vec<BrokerInfo>) {
        let replicas: Vec<_> = brokers.iter().map(|broker| broker.id).collect();
        let shard = |id| ShardMetadata {
            id: ShardId(id),
            term: 1,
            leader: replicas.first().copied(),
            replicas: replicas.clone(),
        };
        self.shards = (1..=SHARDS).map(shard).collect();
        self.version += 1;
        self.brokers = brokers;
    }

    /// From now on this broker leads all shards, or nobody does.
    pub(super) fn elect(&mut self, leader: Option<BrokerId>) {
        for shard in &mut self.shards {
            shard.term += 1;
            shard.leader = leader;
        }
    }

    pub(super) fn shard(&self, partition: u32) -> &ShardMetadata {
        &self.shards[(partition % SHARDS) as usize]
    }

    /// From now on this broker hears nothing of the others.
    pub(super) fn isolate(&mut self, broker: BrokerId) {
        let mut shards = self.shards.clone();
        for shard in &mut shards {
            shard.leader = None;
        }
        self.isolated.insert(broker, shards);
    }

    /// The shards as a broker knows them.
    fn shards_at(&self, broker: BrokerId) -> &[ShardMetadata] {
        self.isolated.get(&broker).unwrap_or(&self.shards)
    }

    fn leader_at(&self, broker: BrokerId, partition: u32) -> Option<BrokerId> {
        self.shards_at(broker)[(partition % SHARDS) as usize].leader
    }

    /// Why this broker takes nothing for a partition, if it does not lead it.
    pub(super) fn refusal(&self, broker: BrokerId, partition: u32) -> Option<WireError> {
        let shard = self.shard(partition);
        let hint = LeaderHint {
            shard: shard.id,
            term: shard.term,
            leader: shard.leader,
        };
        let refused = || WireError::new(ErrorCode::NotLeader, "moved").led_by(hint);
        (shard.leader != Some(broker)).then(refused)
    }

    /// The end of a partition as a broker knows it.
    pub(super) fn end(
        &mut self,
        broker: BrokerId,
        topic: &str,
        index: u32,
    ) -> Result<u64, WireError> {
        let is_leader = self.shard(index).leader == Some(broker);
        let behind = self.behind.get(&broker).filter(|_| !is_leader);
        let behind = behind.copied().unwrap_or(0);
        let end = self.partition(topic, index)?.end;
        Ok(end.saturating_sub(behind))
    }

    /// Whether a broker that is asked can learn where a partition ends.
    pub(super) fn end_is_known(&self, broker: BrokerId, index: u32) -> bool {
        self.leader_at(broker, index).is_some()
    }

    pub(super) fn metadata(&self, broker: BrokerId, names: &[Name]) -> Metadata {
        let known = |name: &Name| {
            let topic = self.topics.get(name.as_str())?;
            let partitions = 0..topic.partitions.len() as u32;
            Some(TopicMetadata {
                name: name.clone(),
                id: topic.id,
                config: topic.config.clone(),
                shards: partitions.map(|index| self.shard(index).id).collect(),
            })
        };
        Metadata {
            version: self.version,
            brokers: self.brokers.clone(),
            shards: self.shards_at(broker).to_vec(),
            topics: names.iter().filter_map(known).collect(),
            batch_bytes_max: BATCH_BYTES_MAX as u32,
        }
    }

    pub(super) fn list(&self) -> Vec<TopicSummary> {
        let topics = self.topics.iter().map(|(name, topic)| TopicSummary {
            name: Name::new(name).unwrap(),
            config: topic.config.clone(),
            plugins: Vec::new(),
        });
        topics.collect()
    }

    pub(super) fn describe(
        &mut self,
        broker: BrokerId,
        name: Name,
    ) -> Result<TopicDescription, WireError> {
        self.descriptions += 1;
        let Some(topic) = self.topics.get(name.as_str()) else {
            return Err(WireError::new(ErrorCode::UnknownTopic, "no such topic"));
        };
        let describe = |(index, partition): (usize, &Partition)| PartitionDescription {
            index: index as u32,
            shard: self.shard(index as u32).id,
            leader: self.leader_at(broker, index as u32),
            extent: self
                .leader_at(broker, index as u32)
                .map(|_| PartitionExtent {
                    start_offset: Offset(partition.start),
                    end_offset: Offset(partition.end),
                    size_bytes: 0,
                }),
        };
        Ok(TopicDescription {
            name,
            id: topic.id,
            config: topic.config.clone(),
            created_ms: 0,
            partitions: topic.partitions.iter().enumerate().map(describe).collect(),
            bindings: Vec::new(),
        })
    }
}
