//! The replicated state of a data shard: which partitions there are, where each ends, and what
//! idempotent producers sent last. Applying is memory only.

use std::{collections::BTreeMap, sync::Arc};

use flumen_protocol::{
    batch::Batch,
    ids::{Offset, PartitionId, ProducerId, TopicId},
    topic::TopicConfig,
};
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    AppendOutcome, Appended, Refusal,
    manifest::{Manifest, SavedPartition, SavedTopic},
    partition::PartitionShared,
    producers::{PRODUCERS_MAX, ProducerTable, Verdict},
};
use crate::{
    log::{LogCheckpoint, LogOptions, LogStore, OpenError, PartitionLog},
    shard::{command::Command, machine::Applied, types::Response},
};

/// The partitions of a shard, for who looks them up without asking the state machine.
pub(super) type Directory = Arc<RwLock<FxHashMap<PartitionId, Arc<PartitionShared>>>>;

pub(super) struct DataState {
    pub(super) applied: Applied,
    topics: BTreeMap<TopicId, TopicConfig>,
    partitions: FxHashMap<PartitionId, Partition>,
    producers: ProducerTable,
    directory: Directory,
    logs: LogStore,
    /// Partitions whose logs have changed since the last checkpoint.
    dirty: FxHashSet<PartitionId>,
    /// Partitions that the last checkpoint still names, though they were deleted since. Their
    /// files stay until the next one: a start in between opens them again.
    deleted: Vec<PartitionId>,
    /// Records and bytes that were ever appended: the same on every replica that has applied as
    /// much.
    records: u64,
    bytes: u64,
}

/// What was ever appended to the partitions of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppendedTotal {
    pub(crate) partitions: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

struct Partition {
    /// The offset that the next record gets.
    end_offset: Offset,
    log: PartitionLog,
    shared: Arc<PartitionShared>,
    /// What the last checkpoint says of the log.
    checkpoint: LogCheckpoint,
    dirty: bool,
}

/// The state at one moment, and the logs that must be made durable before it counts.
pub(super) struct Cut {
    pub(super) manifest: Manifest,
    /// The logs that have changed, and the offset up to which they belong to the cut.
    pub(super) dirty: Vec<(PartitionLog, Offset)>,
    pub(super) deleted: Vec<PartitionId>,
}

impl DataState {
    pub(super) fn open(
        manifest: Manifest,
        logs: LogStore,
        directory: Directory,
    ) -> Result<Self, OpenError> {
        let mut state = Self {
            applied: manifest.applied,
            topics: BTreeMap::new(),
            partitions: FxHashMap::default(),
            producers: ProducerTable::restore(manifest.producers, PRODUCERS_MAX),
            directory,
            logs,
            dirty: FxHashSet::default(),
            deleted: Vec::new(),
            records: manifest.records,
            bytes: manifest.bytes,
        };
        for topic in manifest.topics {
            for saved in topic.partitions {
                let id = PartitionId {
                    topic: topic.id,
                    index: saved.index,
                };
                let options = LogOptions::from(&topic.config);
                let log = state.logs.open_partition(id, options, &saved.checkpoint)?;
                state.insert(id, log, saved.end_offset, saved.checkpoint);
            }
            state.topics.insert(topic.id, topic.config);
        }
        Ok(state)
    }

    /// Goes over to what another replica's manifest says. The logs hold its records already; those
    /// of partitions that were deleted meanwhile go with the next checkpoint.
    pub(super) fn replace(&mut self, manifest: Manifest) -> Result<(), OpenError> {
        let kept: FxHashSet<TopicId> = manifest.topics.iter().map(|topic| topic.id).collect();
        let gone: Vec<_> = self.topics.keys().copied().collect();
        for topic in gone.into_iter().filter(|topic| !kept.contains(topic)) {
            self.delete(topic);
        }
        for topic in manifest.topics {
            let indexes: Vec<_> = topic.partitions.iter().map(|saved| saved.index).collect();
            self.create(topic.id, &topic.config, &indexes)?;
            for saved in topic.partitions {
                let id = PartitionId {
                    topic: topic.id,
                    index: saved.index,
                };
                let Some(partition) = self.partitions.get_mut(&id) else {
                    continue;
                };
                partition.end_offset = saved.end_offset;
                partition.shared.raise(saved.end_offset);
                self.mark_dirty(id);
            }
        }
        self.producers = ProducerTable::restore(manifest.producers, PRODUCERS_MAX);
        self.applied = manifest.applied;
        (self.records, self.bytes) = (manifest.records, manifest.bytes);
        Ok(())
    }

    fn insert(
        &mut self,
        id: PartitionId,
        log: PartitionLog,
        end_offset: Offset,
        checkpoint: LogCheckpoint,
    ) {
        let shared = PartitionShared::new(id, log.reader(), end_offset);
        self.directory.write().insert(id, Arc::clone(&shared));
        let partition = Partition {
            end_offset,
            log,
            shared,
            checkpoint,
            dirty: false,
        };
        self.partitions.insert(id, partition);
    }

    pub(super) fn apply(&mut self, command: &Command) -> Result<Response, OpenError> {
        match command {
            Command::Append { time_ms, batches } => {
                let outcomes = batches
                    .iter()
                    .map(|(partition, batch)| self.append(*partition, batch, *time_ms))
                    .collect();
                return Ok(Response::Appended(outcomes));
            }
            Command::CreatePartitions {
                topic,
                config,
                indexes,
            } => self.create(*topic, config, indexes)?,
            Command::ConfigurePartitions { topic, config } => self.configure(*topic, config),
            Command::DeletePartitions { topic } => self.delete(*topic),
            Command::Custom { .. } => {
                tracing::error!("a data shard was given a command that it does not know");
            }
        }
        Ok(Response::None)
    }

    fn append(&mut self, id: PartitionId, batch: &Batch, time_ms: u64) -> AppendOutcome {
        let partition = self
            .partitions
            .get_mut(&id)
            .ok_or(Refusal::UnknownPartition)?;
        let sequence = batch.header().producer;
        let idempotent = sequence.producer_id != ProducerId::NONE;
        if idempotent && let Verdict::Duplicate(appended) = self.producers.check(id, sequence)? {
            return Ok(appended);
        }
        let stored = batch.record_count();
        let mut appended = Appended {
            base_offset: None,
            stored: Some(stored),
            append_time_ms: time_ms,
            duplicate: false,
        };
        // What plugins refused or left nothing of only carries the producer's sequence on.
        if stored > 0 {
            let batch = batch.clone().placed(partition.end_offset, time_ms);
            appended.base_offset = Some(partition.end_offset);
            partition.end_offset = batch.end_offset();
            self.records += u64::from(stored);
            self.bytes += batch.encoded_len() as u64;
            partition.log.append(batch);
            if !partition.dirty {
                partition.dirty = true;
                self.dirty.insert(id);
            }
            partition.shared.raise(partition.end_offset);
        }
        if idempotent {
            self.producers.record(id, sequence, &appended);
        }
        Ok(appended)
    }

    fn create(
        &mut self,
        topic: TopicId,
        config: &TopicConfig,
        indexes: &[u32],
    ) -> Result<(), OpenError> {
        self.configure(topic, config);
        self.topics.insert(topic, config.clone());
        for index in indexes {
            let id = PartitionId {
                topic,
                index: *index,
            };
            if self.partitions.contains_key(&id) {
                continue;
            }
            let checkpoint = LogCheckpoint::default();
            let options = LogOptions::from(config);
            let log = self.logs.open_partition(id, options, &checkpoint)?;
            self.insert(id, log, Offset(0), checkpoint);
        }
        Ok(())
    }

    fn configure(&mut self, topic: TopicId, config: &TopicConfig) {
        let Some(known) = self.topics.get_mut(&topic) else {
            return;
        };
        if known == config {
            return;
        }
        *known = config.clone();
        for (id, partition) in &self.partitions {
            if id.topic == topic {
                partition.log.configure(LogOptions::from(config));
            }
        }
    }

    fn delete(&mut self, topic: TopicId) {
        if self.topics.remove(&topic).is_none() {
            return;
        }
        self.producers.remove_topic(topic);
        self.directory.write().retain(|id, _| id.topic != topic);
        self.dirty.retain(|id| id.topic != topic);
        self.partitions.retain(|id, partition| {
            let deleted = id.topic == topic;
            if deleted {
                partition.shared.delete();
                self.deleted.push(*id);
            }
            !deleted
        });
    }

    /// Lets all partitions go, which others have, and tells whose logs are to be removed.
    pub(super) fn discard(&mut self) -> Vec<PartitionId> {
        for partition in self.partitions.values() {
            partition.shared.leave();
        }
        let topics: Vec<_> = self.topics.keys().copied().collect();
        for topic in topics {
            self.delete(topic);
        }
        std::mem::take(&mut self.deleted)
    }

    /// Lets all partitions go, whose logs are about to be closed, and tells which those are.
    pub(super) fn close(&mut self) -> Vec<PartitionId> {
        for partition in self.partitions.values() {
            partition.shared.leave();
        }
        self.dirty.clear();
        self.partitions.drain().map(|(id, _)| id).collect()
    }

    /// All partitions' logs, for retention and compaction.
    pub(super) fn logs(&self) -> Vec<PartitionLog> {
        let partitions = self.partitions.values();
        partitions.map(|partition| partition.log.clone()).collect()
    }

    /// Whether there is something that a checkpoint has not seen, besides what was applied.
    pub(super) fn has_changed(&self) -> bool {
        !self.dirty.is_empty() || !self.deleted.is_empty()
    }

    pub(super) fn appended_total(&self) -> AppendedTotal {
        AppendedTotal {
            partitions: self.partitions.len() as u64,
            records: self.records,
            bytes: self.bytes,
        }
    }

    /// Notes that a log has changed though nothing was appended to it.
    pub(super) fn mark_dirty(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.dirty = true;
            self.dirty.insert(id);
        }
    }

    /// The same, if the log has something that its last checkpoint does not.
    pub(super) fn mark_dirty_if_changed(&mut self, id: PartitionId) {
        let partition = self.partitions.get(&id);
        if partition.is_some_and(|partition| partition.log.needs_checkpoint(&partition.checkpoint))
        {
            self.mark_dirty(id);
        }
    }

    /// Takes the state as it is now; the logs that have changed are not in it yet.
    pub(super) fn cut(&mut self) -> Cut {
        let dirty = std::mem::take(&mut self.dirty)
            .into_iter()
            .filter_map(|id| {
                let partition = self.partitions.get_mut(&id)?;
                partition.dirty = false;
                Some((partition.log.clone(), partition.end_offset))
            })
            .collect();
        Cut {
            manifest: self.manifest(),
            dirty,
            deleted: std::mem::take(&mut self.deleted),
        }
    }

    fn manifest(&self) -> Manifest {
        let mut topics: BTreeMap<_, _> = self
            .topics
            .iter()
            .map(|(id, config)| {
                let topic = SavedTopic {
                    id: *id,
                    config: config.clone(),
                    partitions: Vec::new(),
                };
                (*id, topic)
            })
            .collect();
        for (id, partition) in &self.partitions {
            if let Some(topic) = topics.get_mut(&id.topic) {
                topic.partitions.push(SavedPartition {
                    index: id.index,
                    end_offset: partition.end_offset,
                    checkpoint: partition.checkpoint.clone(),
                });
            }
        }
        Manifest {
            applied: self.applied.clone(),
            topics: topics.into_values().collect(),
            producers: self.producers.save(),
            records: self.records,
            bytes: self.bytes,
        }
    }

    /// The logs of a cut are durable, as these checkpoints say.
    pub(super) fn saved(&mut self, checkpoints: FxHashMap<PartitionId, LogCheckpoint>) {
        for (id, checkpoint) in checkpoints {
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.checkpoint = checkpoint;
            }
        }
    }

    /// The logs of a cut could not be made durable; they stay changed.
    pub(super) fn aborted(&mut self, cut: Cut) {
        for (log, _) in cut.dirty {
            self.mark_dirty(log.id());
        }
        self.deleted.extend(cut.deleted);
    }
}
