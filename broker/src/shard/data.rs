//! A data shard: a Raft group that holds partitions.

mod machine;
mod manifest;
mod partition;
mod producers;
mod state;
mod transfer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset, PartitionId, ShardId, TopicId},
    message::ShardStatus,
    size::Size,
    topic::TopicConfig,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use self::state::AppendedTotal;
pub(crate) use self::transfer::{RecordServer, RecordSource};
use self::{
    machine::{DataMachine, Ground},
    state::Directory,
    transfer::Served,
};
pub use self::{
    partition::{News, PartitionReader, Subscription},
    producers::{PRODUCERS_MAX, REMEMBERED_BATCHES},
};
use super::{
    ProposeError, ShardError,
    admission::{Admission, Room},
    command::Command,
    failure::Failure,
    group::Group,
    proposer::Proposer,
    raft_parts::RaftParts,
};
use crate::{disk::Disk, log::LogStore, wal::Wal};

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The offset of its first record. `None` if it had none, or if it is a duplicate so old
    /// that its offset is forgotten.
    pub base_offset: Option<Offset>,
    /// How many records were stored. `None` if it is a duplicate so old that this is forgotten;
    /// then there were some.
    pub stored: Option<u32>,
    /// When it was appended, in milliseconds since the epoch.
    pub append_time_ms: u64,
    /// Whether it was there already; then the rest is what was answered the first time.
    pub duplicate: bool,
}

/// Why a batch was not appended although its entry was: the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    UnknownPartition,
    OutOfSequence { expected: u64 },
    ProducerFenced { epoch: u32 },
    UnknownProducer,
    Forgotten,
}

pub(crate) type AppendOutcome = Result<Appended, Refusal>;

/// Why a batch was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The partition is not in this shard: it was never created, or deleted.
    #[error("partition {0} does not exist")]
    UnknownPartition(PartitionId),
    /// A batch of this producer is missing.
    #[error(
        "partition {partition} expects batch {expected} of this producer next; send that first"
    )]
    OutOfSequence {
        /// The partition.
        partition: PartitionId,
        /// The sequence that is next.
        expected: u64,
    },
    /// A later producer with the same id has taken over.
    #[error(
        "a producer with the same id and epoch {epoch} has taken over partition {partition}; \
         this one is done"
    )]
    ProducerFenced {
        /// The partition.
        partition: PartitionId,
        /// The epoch of the later one.
        epoch: u32,
    },
    /// The producer was forgotten, so a duplicate could not be told.
    #[error(
        "partition {0} does not remember this producer, so it cannot tell a duplicate; \
         start again with a new producer id"
    )]
    UnknownProducer(PartitionId),
    /// It was there already, so long ago that it is forgotten whether any of its records were.
    #[error(
        "partition {0} does not remember what became of the batch, only that it had it; keep \
         fewer batches in flight"
    )]
    Forgotten(PartitionId),
    /// There was no room for it for too long.
    #[error(
        "no room for the batch after waiting {waited:.1?}: the disk does not keep up with what is \
         produced; try again later"
    )]
    Overloaded {
        /// How long it waited.
        waited: Duration,
    },
    /// The disk is full.
    #[error("{reason}; nothing can be produced until there is room")]
    NoSpace {
        /// What is full, and since when.
        reason: String,
    },
    /// The batch can never be appended.
    #[error("a batch of {} is larger than the {} that the write-ahead log takes", Size(*bytes), Size(*bytes_max))]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest size.
        bytes_max: u64,
    },
    /// Another broker leads the shard.
    #[error("this broker does not lead the partition's shard; ask the one that does")]
    NotLeader,
    /// Another broker took the shard over while the batch was on its way.
    #[error(
        "another broker leads the partition's shard since; whether the batch was appended is not \
         known"
    )]
    Deposed,
    /// The storage has failed for good.
    #[error("the broker's storage has failed: {reason}")]
    Failed {
        /// What failed.
        reason: String,
    },
    /// The shard has stopped; whether the batch was appended is not known.
    #[error("the broker is stopping; whether the batch was appended is not known")]
    Stopped,
}

impl AppendError {
    /// The error's code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition(_) => ErrorCode::UnknownPartition,
            Self::OutOfSequence { .. } => ErrorCode::OutOfSequence,
            Self::ProducerFenced { .. } => ErrorCode::ProducerFenced,
            Self::UnknownProducer(_) | Self::Forgotten(_) => ErrorCode::UnknownProducer,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::NoSpace { .. } => ErrorCode::NoSpace,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::NotLeader => ErrorCode::NotLeader,
            Self::Failed { .. } => ErrorCode::StorageFailed,
            // Not `Unavailable`, which says that nothing was done.
            Self::Stopped | Self::Deposed => ErrorCode::Timeout,
        }
    }
}

impl From<ProposeError> for AppendError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader => Self::NotLeader,
            ProposeError::Unknown => Self::Deposed,
            ProposeError::Stopped => Self::Stopped,
            ProposeError::NoRoom { reason } => Self::NoSpace { reason },
        }
    }
}

impl From<AppendError> for WireError {
    fn from(error: AppendError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl Refusal {
    pub(crate) fn into_error(self, partition: PartitionId) -> AppendError {
        match self {
            Self::UnknownPartition => AppendError::UnknownPartition(partition),
            Self::OutOfSequence { expected } => AppendError::OutOfSequence {
                partition,
                expected,
            },
            Self::ProducerFenced { epoch } => AppendError::ProducerFenced { partition, epoch },
            Self::UnknownProducer => AppendError::UnknownProducer(partition),
            Self::Forgotten => AppendError::Forgotten(partition),
        }
    }
}

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

/// What a data shard stands on.
#[derive(Clone)]
pub(crate) struct DataShardParts {
    pub(crate) raft: RaftParts,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) logs: LogStore,
    pub(crate) admission: Admission,
    /// Where other brokers find the records of this one's shards.
    pub(crate) records: RecordServer,
}

/// A shard whose files were damaged, with all that its checkpoint promises, before it is opened.
pub(crate) struct Repaired {
    id: ShardId,
    machine: Arc<DataMachine>,
    directory: Directory,
    parts: DataShardParts,
}

impl Repaired {
    /// Opens the shard, and removes what was set aside.
    pub(crate) async fn start(self) -> Result<DataShard, ShardError> {
        let (id, machine) = (self.id, Arc::clone(&self.machine));
        let shard = DataShard::start(id, self.machine, self.directory, self.parts).await?;
        let clean_up = crate::executor::spawn_blocking(move || machine.remove_set_aside());
        clean_up
            .await
            .map_err(|error| ShardError::start(id, &error))?;
        Ok(shard)
    }
}

impl DataShardParts {
    /// What the machine of a shard stands on.
    fn ground(&self, shard: ShardId, checkpoint: PathBuf, directory: &Directory) -> Ground {
        Ground {
            broker: self.raft.broker,
            disk: Arc::clone(&self.disk),
            path: checkpoint,
            source: RecordSource {
                network: Arc::clone(&self.raft.network),
                shard,
                logs: self.logs.clone(),
                received_bytes: self.records.transfers().received_bytes.clone(),
            },
            directory: Arc::clone(directory),
        }
    }
}

impl DataShard {
    /// Opens a shard as of its last checkpoint.
    pub(crate) async fn open(
        id: ShardId,
        checkpoint: PathBuf,
        parts: DataShardParts,
    ) -> Result<Self, ShardError> {
        let directory = Directory::default();
        let ground = parts.ground(id, checkpoint, &directory);
        let opened = crate::executor::spawn_blocking(move || DataMachine::open(ground)).await;
        let machine = opened.map_err(|error| ShardError::start(id, &error))??;
        Self::start(id, Arc::new(machine), directory, parts).await
    }

    /// Gets a shard with files that are damaged ready to be opened. What is whole is kept, and
    /// the rest comes from `others`, which are asked until it is all there.
    pub(crate) async fn repair(
        id: ShardId,
        checkpoint: PathBuf,
        parts: DataShardParts,
        others: impl Fn() -> Vec<BrokerId>,
    ) -> Result<Repaired, ShardError> {
        let failed = |error: &dyn std::fmt::Display| ShardError::start(id, &error);
        let directory = Directory::default();
        let ground = parts.ground(id, checkpoint, &directory);
        let cancelled = CancellationToken::new();
        // A broker that stops does not wait until all files are read.
        let _cancel = cancelled.clone().drop_guard();
        let salvage = move || DataMachine::salvage(ground, &cancelled);
        let opened = crate::executor::spawn_blocking(salvage).await;
        let (machine, promised) = opened.map_err(|error| failed(&error))??;
        let machine = Arc::new(machine);
        if let Some(promised) = promised {
            let filled = Arc::clone(&machine).fill(promised, others).await;
            filled.map_err(|error| failed(&error))?;
        }
        Ok(Repaired {
            id,
            machine,
            directory,
            parts,
        })
    }

    async fn start(
        id: ShardId,
        machine: Arc<DataMachine>,
        directory: Directory,
        parts: DataShardParts,
    ) -> Result<Self, ShardError> {
        let raft = RaftParts {
            admission: Some(parts.admission.clone()),
            ..parts.raft
        };
        let group = Group::start(id, Arc::clone(&machine) as _, raft.clone()).await?;
        let shared = Shared {
            id,
            proposer: Proposer::new(group.raft().clone(), &raft.wal),
            group,
            admission: parts.admission,
            served: (parts.records).add(id, Arc::clone(&directory), Arc::clone(&machine)),
            machine,
            directory,
            failure: raft.failure,
            wal: raft.wal,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The shard.
    pub fn id(&self) -> ShardId {
        self.shared.id
    }

    /// Appends a batch, and waits until it is durable as the sync policy says, and applied.
    ///
    /// A producer that has several batches in flight uses [`DataShard::make_room`], which keeps
    /// their order.
    pub async fn append(
        &self,
        partition: PartitionId,
        batch: Batch,
    ) -> Result<Appended, AppendError> {
        let room = self.make_room(batch.encoded_len()).await?;
        room.append(partition, batch).await
    }

    /// Waits until there is room for a batch of `bytes`: the back-pressure of appends.
    pub async fn make_room(&self, bytes: usize) -> Result<AppendRoom, AppendError> {
        let room = self.shared.admission.room(bytes).await?;
        Ok(AppendRoom {
            shard: self.clone(),
            room,
        })
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

    /// Stops the shard and removes all that this broker has of it, but for its vote.
    pub(crate) async fn discard(&self) -> Result<(), ShardError> {
        let shared = &self.shared;
        shared.served.end();
        shared.group.stop().await;
        let (tx, rx) = oneshot::channel();
        shared.wal.shard(shared.id).reset(move |result| {
            // Whoever waits is there until the answer comes.
            let _ = tx.send(result);
        });
        match rx.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(ShardError::start(shared.id, &error)),
            Err(error) => return Err(ShardError::start(shared.id, &error)),
        }
        let (machine, wal) = (Arc::clone(&shared.machine), shared.wal.clone());
        // The files go once it is sure that a start will not look for them.
        let discard = move || wal.sync().map(|()| machine.discard());
        crate::executor::spawn_blocking(discard)
            .await
            .map_err(|error| ShardError::start(shared.id, &error))?
            .map_err(|error| ShardError::start(shared.id, &error))
    }

    /// Stops the shard and leaves all files as they are, to be opened again.
    pub(crate) async fn close(&self) -> Result<(), ShardError> {
        let shared = &self.shared;
        let failed = |error: &dyn std::fmt::Display| ShardError::start(shared.id, &error);
        // Little of the write-ahead log is to be kept for a shard that is not there to let it go.
        let released = match shared.group.checkpoint().await {
            Ok(()) => shared.group.release_log().await,
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::debug!(shard = %shared.id, %error, "closed without a last checkpoint");
        }
        shared.served.end();
        shared.group.stop().await;
        let (machine, wal) = (Arc::clone(&shared.machine), shared.wal.clone());
        // Who opens it takes for durable what is in the log.
        let close = move || -> std::io::Result<()> {
            wal.sync().map_err(std::io::Error::other)?;
            machine.close()
        };
        let closed = crate::executor::spawn_blocking(close).await;
        let closed = closed.map_err(|error| failed(&error))?;
        closed.map_err(|error| failed(&error))
    }

    /// Whether this broker leads the shard, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.shared.group.leads()
    }

    pub(crate) fn group(&self) -> &Group {
        &self.shared.group
    }

    /// Applies retention and compaction to the logs. Blocks on the disk.
    pub(crate) fn look_after_logs(&self, now_ms: u64) {
        self.shared.machine.look_after_logs(now_ms);
    }
}

/// Room for one batch in a shard; given back when dropped.
pub struct AppendRoom {
    shard: DataShard,
    room: Room,
}

impl AppendRoom {
    /// Queues the batch at once, and gives what to wait on for its outcome. Batches of one
    /// partition are appended in the order of these calls.
    pub fn append(self, partition: PartitionId, batch: Batch) -> PendingAppend {
        let shared = &self.shard.shared;
        let outcome = shared.proposer.append(partition, batch, self.room);
        PendingAppend {
            outcome,
            failure: shared.failure.clone(),
        }
    }
}

/// An append whose outcome is on its way. Dropping it does not take the batch back.
#[must_use = "the outcome of an append is not known before it is awaited"]
pub struct PendingAppend {
    outcome: oneshot::Receiver<Result<Appended, AppendError>>,
    failure: Failure,
}

impl Future for PendingAppend {
    type Output = Result<Appended, AppendError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let outcome = std::pin::Pin::new(&mut self.outcome).poll(cx);
        outcome.map(|outcome| match outcome {
            Ok(Err(AppendError::Stopped)) | Err(_) => Err(match self.failure.get() {
                Some(reason) => AppendError::Failed { reason },
                None => AppendError::Stopped,
            }),
            Ok(outcome) => outcome,
        })
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
