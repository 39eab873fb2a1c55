//! Appending batches to a shard: room, order, and what becomes of each.

use std::time::Duration;

use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    ids::{Offset, PartitionId},
    size::Size,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::DataShard;
use crate::shard::{ProposeError, admission::Room, failure::Failure};

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
    /// The partition's file cannot be written.
    #[error("partition {partition} takes no records: {reason}")]
    Unwritable {
        /// The partition.
        partition: PartitionId,
        /// What is wrong, and since when.
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
            Self::Unwritable { .. } => ErrorCode::Unavailable,
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

impl DataShard {
    /// Appends a batch, and waits until it is durable as the sync policy says, and applied.
    ///
    /// A producer that has several batches in flight uses [`DataShard::make_room`], which keeps
    /// their order.
    pub async fn append(
        &self,
        partition: PartitionId,
        batch: Batch,
    ) -> Result<Appended, AppendError> {
        self.check_partition(partition)?;
        let room = self.make_room(batch.encoded_len()).await?;
        room.append(partition, batch).await
    }

    /// Refuses a partition that cannot be written at present, though others can. To be asked before
    /// there is room for a batch.
    pub(crate) fn check_partition(&self, partition: PartitionId) -> Result<(), AppendError> {
        self.shared.admission.check_partition(partition)
    }

    /// Waits until there is room for a batch of `bytes`: the back-pressure of appends.
    pub async fn make_room(&self, bytes: usize) -> Result<AppendRoom, AppendError> {
        let room = self.shared.admission.room(bytes).await?;
        Ok(AppendRoom {
            shard: self.clone(),
            room,
        })
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
