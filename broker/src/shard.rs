//! Shards: the Raft groups of a broker. Partitions live in data shards; the catalog is a shard
//! of its own kind.
//!
//! The consensus engine is openraft, and this module is its only user: nothing of it shows in
//! the face. An append goes this way:
//!
//! ```text
//! DataShard::make_room   waits for room in memory, in the WAL and in the partition logs
//!   AppendRoom::append   queues the batch ............................ proposer
//!     one Raft entry for all that waits .............................. command
//!       written, and synced as the policy says ....................... log_storage -> wal
//!         committed; applied: offsets, duplicates, partition logs .... machine, data/state
//!           readers are woken, the producer gets its offset
//! ```
//!
//! What is applied is made durable by checkpoints, and the write-ahead log is purged up to them.

mod admission;
pub(crate) mod checkpoint_file;
mod command;
mod data;
mod failure;
mod group;
mod log_storage;
mod machine;
mod network;
mod pace;
mod pieces;
mod proposer;
mod raft_parts;
mod replicas;
mod rpc;
mod ticks;
mod types;

use std::{fmt, path::PathBuf};

pub(crate) use self::admission::BATCH_HEAD_BYTES_MAX;
use flumen_protocol::ids::ShardId;

use self::command::Command;
pub use self::{
    admission::ROOM_WAIT_MAX,
    checkpoint_file::CheckpointError,
    data::{
        AppendError, AppendRoom, Appended, DataShard, News, PRODUCERS_MAX, PartitionReader,
        PendingAppend, REMEMBERED_BATCHES, Subscription,
    },
    group::ProposeError,
    proposer::{ENTRIES_IN_FLIGHT_MAX, ENTRY_BATCHES_MAX, ENTRY_BYTES_MAX},
};
use crate::wal::{Reservation, Wal, WalError};

/// What the rooms above build shards from: data shards, and other kinds of their own.
pub(crate) mod raft {
    pub(crate) use super::{
        ShardError,
        admission::Admission,
        command::{Command, decode as decode_entry},
        data::{DataShardParts, RecordServer},
        failure::Failure,
        group::{BehindError, Group, GroupView, forward, until_led},
        machine::{Applied, Checkpoint, Machine},
        pace::{CATCH_UP_RATE, Pace},
        raft_parts::RaftParts,
        replicas::Replicas,
        types::{Entry, Payload, Response},
    };

    #[cfg(test)]
    pub(crate) use super::{log_storage::LogStorage, machine::RaftMachine, types::TypeConfig};
}

/// Why shards do not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A partition log cannot be opened.
    #[error(transparent)]
    Log(#[from] crate::log::OpenError),
    /// The directory of the checkpoints cannot be made.
    #[error("cannot use the directory {dir} for checkpoints: {source}")]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The Raft group does not start.
    #[error("shard {shard} does not start: {reason}")]
    Start {
        /// The shard.
        shard: ShardId,
        /// What went wrong.
        reason: String,
    },
    /// The storage has failed while it started.
    #[error("{0}")]
    Failed(String),
}

impl ShardError {
    pub(crate) fn start(shard: ShardId, reason: &impl fmt::Display) -> Self {
        Self::Start {
            shard,
            reason: reason.to_string(),
        }
    }
}

/// Whether the bytes are the checkpoint of a shard of partitions.
pub(crate) fn decode_checkpoint_for_fuzzing(bytes: &[u8]) -> bool {
    data::is_manifest(bytes)
}

/// Sets room aside for a command that is not an append.
pub(crate) fn reserve(wal: &Wal, command: &Command) -> Result<Reservation, ProposeError> {
    let bytes = command.len_bytes() as u64 + 1024;
    wal.reserve_for_command(bytes).map_err(|error| match error {
        WalError::Failed { .. } | WalError::Closed => ProposeError::Stopped,
        error => ProposeError::NoRoom {
            reason: error.to_string(),
        },
    })
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(crate) fn add_messages(schema: &mut flumen_schema::Schema) {
    rpc::add_messages(schema);
    group::propose::add_messages(schema);
    command::add_messages(schema);
    data::add_messages(schema);
}
