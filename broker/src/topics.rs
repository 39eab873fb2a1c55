//! What the server knows as topics: the catalog's names and settings joined with the
//! partitions that live in shards.
//!
//! The catalog decides; shards follow. A topic exists once the catalog has committed it;
//! its partitions are made in their shards before the command returns, and whatever a crash
//! left undone in between is done by [`Topics::reconcile`] at the next start, or by the next broker
//! that leads the catalog.

mod beside;
mod consume;
mod produce;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use flumen_protocol::{
    error::{ErrorCode, LeaderHint, WireError},
    ids::{BrokerId, Offset, PartitionId, TopicId},
    message::{PartitionDescription, PartitionExtent, TopicMetadata, TopicSummary},
    topic::{NoSuchPartition, TopicChanges, TopicConfig, TopicName},
};
use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::beside::{Beside, Held, SideAppend};
pub use self::{
    consume::{ConsumeSource, Fetched},
    produce::ProduceTarget,
};
use crate::{
    catalog::{Catalog, CatalogState, Topic},
    shard::{DataShard, PartitionReader, ProposeError},
    shards::{Shards, others_of},
};

/// How long to wait before partitions that could not be made are tried again.
const CREATE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long partitions are tried to be made before that is left to the next leader of the catalog.
const CREATE_LATER_MAX: Duration = Duration::from_mins(5);

/// How long it may take to see that this broker leads a shard, where others are told without it.
const CONFIRM_WAIT_MAX: Duration = Duration::from_millis(300);

/// Topics and their partitions. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Topics {
    catalog: Catalog,
    shards: Shards,
}

impl Topics {
    /// Joins a catalog with the shards that it describes.
    pub fn new(catalog: Catalog, shards: Shards) -> Self {
        Self { catalog, shards }
    }

    /// Makes a topic. When this returns, it can be produced to.
    pub async fn create(&self, name: TopicName, config: TopicConfig) -> Result<(), WireError> {
        let topic = self.catalog.create_topic(name, config).await?;
        self.create_new(&topic, 0..topic.config.partitions).await
    }

    /// Changes a topic's settings. When this returns, they are in force.
    pub async fn alter(&self, name: TopicName, changes: TopicChanges) -> Result<(), WireError> {
        let before = self.find(&name).await?;
        let after = self.catalog.alter_topic(name, changes).await?;
        self.shards
            .configure_partitions(after.id, &after.config)
            .await?;
        let added = before.config.partitions..after.config.partitions;
        self.create_new(&after, added).await
    }

    /// Removes a topic with all of its records.
    pub async fn delete(&self, name: TopicName) -> Result<TopicId, WireError> {
        let topic = self.catalog.delete_topic(name).await?;
        self.shards.delete_partitions(topic.id).await?;
        Ok(topic.id)
    }

    /// All topics, by name.
    pub fn list(&self) -> Vec<TopicSummary> {
        let state = self.catalog.snapshot();
        let summary = |topic: &Arc<Topic>| TopicSummary {
            name: topic.name.clone(),
            config: topic.config.clone(),
            plugins: topic.bindings.iter().map(|b| b.plugin.clone()).collect(),
        };
        state.topics.values().map(summary).collect()
    }

    /// A topic by its name. That there is none is said when it is so in the cluster, not when
    /// this broker has not heard of it.
    pub async fn find(&self, name: &TopicName) -> Result<Arc<Topic>, WireError> {
        let found = |state: &CatalogState| Ok(Arc::clone(state.topic(name)?));
        self.catalog.find(found).await
    }

    /// A topic that has these partitions.
    async fn find_with(&self, name: &TopicName, indexes: &[u32]) -> Result<Arc<Topic>, WireError> {
        let found = |state: &CatalogState| {
            let topic = state.topic(name)?;
            for index in indexes {
                check_index(name, topic, *index)?;
            }
            Ok(Arc::clone(topic))
        };
        self.catalog.find(found).await
    }

    /// Where the partitions of a topic are; `None` if there is no such topic.
    pub async fn metadata(&self, name: &TopicName) -> Result<Option<TopicMetadata>, WireError> {
        let topic = match self.find(name).await {
            Err(error) if error.code == ErrorCode::UnknownTopic => return Ok(None),
            found => found?,
        };
        let shards = (0..topic.config.partitions)
            .map(|index| self.shards.shard_of(partition(&topic, index)))
            .collect();
        Ok(Some(TopicMetadata {
            name: name.clone(),
            id: topic.id,
            config: topic.config.clone(),
            shards,
        }))
    }

    /// The partitions of a topic by the brokers that lead them, as far as this one knows.
    pub(crate) fn by_leader(&self, topic: &Topic) -> BTreeMap<Option<BrokerId>, Vec<u32>> {
        let mut by_leader: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for index in 0..topic.config.partitions {
            let shard = self.shards.shard_of(partition(topic, index));
            let leader = self.shards.leader_of(shard);
            by_leader.entry(leader).or_default().push(index);
        }
        by_leader
    }

    /// Partitions of a topic, each with its extent if this broker really leads it: what was
    /// acknowledged by anyone before is in it. One that it does not lead keeps no other from being
    /// told.
    pub(crate) async fn describe_led(
        &self,
        name: &TopicName,
        indexes: &[u32],
    ) -> Result<Vec<PartitionDescription>, WireError> {
        let topic = self.find_with(name, indexes).await?;
        let mut by_shard: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for index in indexes {
            let shard = self.shards.shard_of(partition(&topic, *index));
            by_shard.entry(shard).or_default().push(*index);
        }
        let confirmed = by_shard.into_values().map(|indexes| async {
            let confirming = self.confirm_leadership(&topic, &indexes);
            let leads = matches!(timeout(CONFIRM_WAIT_MAX, confirming).await, Ok(Ok(())));
            (indexes, leads)
        });
        let confirmed = join_all(confirmed).await.into_iter();
        let described = confirmed.flat_map(|(indexes, leads)| {
            let one = |index| self.describe_one(&topic, index, leads);
            indexes.into_iter().map(one).collect::<Vec<_>>()
        });
        Ok(described.collect())
    }

    /// A partition of which nobody says what there is.
    pub(crate) fn describe_unknown(&self, topic: &Topic, index: u32) -> PartitionDescription {
        self.describe_one(topic, index, false)
    }

    /// Makes sure that this broker leads the shards of partitions, and has applied all that was
    /// acknowledged.
    async fn confirm_leadership(&self, topic: &Topic, indexes: &[u32]) -> Result<(), WireError> {
        let mut shards = BTreeSet::new();
        for index in indexes {
            let partition = partition(topic, *index);
            if shards.insert(self.shards.shard_of(partition)) {
                let replica = self.replica(partition)?;
                let confirmed = replica.group().confirm_leadership().await;
                confirmed.map_err(|error| self.not_leader(partition, &error))?;
            }
        }
        Ok(())
    }

    /// Whether other brokers have replicas of a partition.
    fn is_replicated(&self, partition: PartitionId) -> bool {
        let state = self.catalog.snapshot();
        let shard = self.shards.shard_of(partition);
        !others_of(&state, shard, self.shards.broker()).is_empty()
    }

    /// The refusal of what only the leader can do, with the leader that is known.
    fn not_leader(&self, partition: PartitionId, error: &ProposeError) -> WireError {
        let shard = self.shards.shard_of(partition);
        let (leader, term) = self.shards.leadership(shard);
        WireError::new(ErrorCode::NotLeader, error.to_string()).led_by(LeaderHint {
            shard,
            term,
            leader: leader.filter(|leader| *leader != self.shards.broker()),
        })
    }

    fn describe_one(&self, topic: &Topic, index: u32, leads: bool) -> PartitionDescription {
        let partition = partition(topic, index);
        let shard = self.shards.shard_of(partition);
        let replica = self.shards.data(shard).filter(|_| leads);
        let reader = replica.and_then(|replica| replica.reader(partition));
        PartitionDescription {
            index,
            shard,
            leader: self.shards.leader_of(shard),
            extent: reader.map(|reader| PartitionExtent {
                start_offset: reader.start_offset(),
                end_offset: reader.end_offset(),
                size_bytes: reader.size_bytes(),
            }),
        }
    }

    /// The first offset at or after a time, for partitions that this broker leads.
    pub async fn offsets_for_time(
        &self,
        name: &TopicName,
        indexes: &[u32],
        time_ms: i64,
    ) -> Result<Vec<Offset>, WireError> {
        let topic = self.find_with(name, indexes).await?;
        self.confirm_leadership(&topic, indexes).await?;
        let mut offsets = Vec::with_capacity(indexes.len());
        for index in indexes {
            let reader = self.reader(&topic, *index)?;
            offsets.push(consume::offset_for_time(&reader, time_ms).await?);
        }
        Ok(offsets)
    }

    /// Brings the shards to what the catalog says: a crash may have come in between. For the
    /// broker that leads the catalog. `made` are the topics with which an earlier try was done.
    ///
    /// # Errors
    /// When this broker may not know all of the catalog: what it does not know would be removed.
    /// When a shard cannot be reached; what the others need is done all the same.
    pub async fn reconcile(&self, made: &mut BTreeSet<TopicId>) -> Result<(), WireError> {
        // First what is held: a topic that is made meanwhile is in the catalog before it is there.
        // The catalog's leader is asked after that, since its news may be elsewhere already.
        let partitions = self.shards.all_data().into_iter();
        let partitions = partitions.flat_map(|shard| shard.partitions());
        let held: BTreeSet<TopicId> = partitions.map(|partition| partition.topic).collect();
        self.catalog.catch_up().await?;
        let state = self.catalog.snapshot();
        let known: BTreeSet<TopicId> = state.topics.values().map(|topic| topic.id).collect();
        let mut done = Ok(());
        for topic in held.difference(&known) {
            let deleted = self.shards.delete_partitions(*topic).await;
            done = done.and(deleted.map_err(WireError::from));
        }
        for topic in state.topics.values() {
            if made.contains(&topic.id) {
                continue;
            }
            let partitions = 0..topic.config.partitions;
            match self.create_partitions(topic, partitions).await {
                Ok(()) => drop(made.insert(topic.id)),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done
    }

    /// Makes partitions that the catalog has now. What fails is done later, and is no reason to
    /// repeat what the catalog has done.
    async fn create_new(&self, topic: &Topic, indexes: Range<u32>) -> Result<(), WireError> {
        let Err(error) = self.create_partitions(topic, indexes.clone()).await else {
            return Ok(());
        };
        let name = &topic.name;
        tracing::warn!(topic = %name, %error, "partitions are not made yet; trying on");
        tokio::spawn(self.clone().create_later(topic.clone(), indexes));
        let text = format!(
            "topic {name} has these settings now, but not all of its partitions yet; they are made \
             as soon as their shards can be reached: {error}"
        );
        Err(WireError::new(ErrorCode::Timeout, text))
    }

    async fn create_later(self, topic: Topic, indexes: Range<u32>) {
        let started = Instant::now();
        let is_wanted = || {
            let state = self.catalog.snapshot();
            let now = state.topic(&topic.name);
            now.is_ok_and(|now| now.id == topic.id) && started.elapsed() < CREATE_LATER_MAX
        };
        while is_wanted() {
            sleep(CREATE_RETRY_AFTER).await;
            if self
                .create_partitions(&topic, indexes.clone())
                .await
                .is_ok()
            {
                return;
            }
        }
    }

    /// Makes those of the partitions that do not exist, all shards at once. The topic is what the
    /// catalog said some time ago: what was changed or deleted meanwhile is so here, too.
    async fn create_partitions(&self, topic: &Topic, indexes: Range<u32>) -> Result<(), WireError> {
        let mut by_shard: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for index in indexes {
            let partition = partition(topic, index);
            let shard = self.shards.shard_of(partition);
            let replica = self.shards.data(shard);
            if replica.is_none_or(|replica| replica.reader(partition).is_none()) {
                by_shard.entry(shard).or_default().push(index);
            }
        }
        if by_shard.is_empty() {
            return Ok(());
        }
        let creations = by_shard.into_iter().map(|(shard, indexes)| {
            let shards = &self.shards;
            shards.create_partitions(shard, topic.id, indexes, &topic.config)
        });
        try_join_all(creations).await?;
        // Who changes the topic from now on tells the shards after this.
        self.catalog.catch_up().await?;
        let state = self.catalog.snapshot();
        match state.topics.values().find(|now| now.id == topic.id) {
            None => self.shards.delete_partitions(topic.id).await?,
            Some(now) if now.config != topic.config => {
                let config = &now.config;
                self.shards.configure_partitions(topic.id, config).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// This broker's replica of the shard that a partition lives in.
    fn replica(&self, partition: PartitionId) -> Result<DataShard, WireError> {
        self.shards
            .data_of(partition)
            .ok_or_else(|| self.not_leader(partition, &ProposeError::NotLeader))
    }

    fn reader(&self, topic: &Topic, index: u32) -> Result<PartitionReader, WireError> {
        let partition = partition(topic, index);
        self.replica(partition)?.reader(partition).ok_or_else(|| {
            let name = &topic.name;
            let text = format!("partition {index} of topic {name} is being made; try again");
            WireError::new(ErrorCode::Unavailable, text)
        })
    }
}

impl From<ProposeError> for WireError {
    fn from(error: ProposeError) -> Self {
        let code = match error {
            ProposeError::NotLeader => ErrorCode::NotLeader,
            ProposeError::NoRoom { .. } => ErrorCode::NoSpace,
            // Not `Unavailable`, which says that nothing was done.
            ProposeError::Stopped | ProposeError::Unknown => ErrorCode::Timeout,
        };
        Self::new(code, error.to_string())
    }
}

fn partition(topic: &Topic, index: u32) -> PartitionId {
    PartitionId {
        topic: topic.id,
        index,
    }
}

fn check_index(name: &TopicName, topic: &Topic, index: u32) -> Result<(), WireError> {
    let count = topic.config.partitions;
    if index < count {
        return Ok(());
    }
    let error = NoSuchPartition {
        topic: name.clone(),
        partition: index,
        partitions: count,
    };
    Err(WireError::new(
        ErrorCode::UnknownPartition,
        error.to_string(),
    ))
}
