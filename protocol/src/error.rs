//! Errors as they cross the wire: a code that programs act on, a text that people read.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{BrokerId, ShardId},
    limits::ERROR_TEXT_BYTES_MAX,
};

/// What went wrong, for programs. Codes are only ever added at the end: their position is
/// their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// A fault of the broker itself.
    Internal,
    /// The request is not of a form that the broker knows.
    InvalidRequest,
    /// The connection has shown no valid credential.
    Unauthenticated,
    /// The credential does not allow this.
    PermissionDenied,
    /// No topic of that name.
    UnknownTopic,
    /// The topic has no partition of that index.
    UnknownPartition,
    /// The topic is there already.
    TopicExists,
    /// A topic setting is out of its range.
    InvalidTopicConfig,
    /// The batch is damaged or breaks the format.
    CorruptBatch,
    /// The batch, or a record of it, is larger than a limit.
    TooLarge,
    /// A batch of this producer before this one is missing.
    OutOfSequence,
    /// A later producer with the same id has taken over.
    ProducerFenced,
    /// The broker no longer knows this producer's sequence.
    UnknownProducer,
    /// A plugin refused the batch. Nothing of it is stored, and its sequence is used.
    Rejected,
    /// No plugin of that name.
    UnknownPlugin,
    /// The plugin cannot be used.
    InvalidPlugin,
    /// The plugin is still bound to a topic.
    PluginInUse,
    /// No such binding.
    UnknownBinding,
    /// The plugin is bound there already.
    BindingExists,
    /// The start offset lies outside of the partition.
    OffsetOutOfRange,
    /// The disk has no room.
    NoSpace,
    /// The storage has failed.
    StorageFailed,
    /// The broker is busy beyond a limit.
    Overloaded,
    /// The broker does not lead the shard.
    NotLeader,
    /// The broker is starting or stopping, or cut off from those who know, or cannot write the
    /// partition, and has done nothing.
    Unavailable,
    /// Nothing was heard in time, or before the broker stopped; the outcome is not known.
    Timeout,
    /// The topic already holds records that forbid this.
    Conflict,
    /// No broker of that id in the cluster.
    UnknownBroker,
    /// So many brokers do not answer that nothing can be decided. Nothing was done.
    NoMajority,
}

impl ErrorCode {
    /// Whether the same request may succeed later without being changed.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::OutOfSequence
                | Self::NoSpace
                | Self::Overloaded
                | Self::NotLeader
                | Self::Unavailable
                | Self::Timeout
                | Self::NoMajority
        )
    }
}

/// An error as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct WireError {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What was attempted, on what, and what to do about it.
    pub text: String,
    /// Whether the same request may succeed later without being changed.
    pub retryable: bool,
    /// The record at fault, counted from 0 in the batch that was sent, where one is.
    pub record: Option<u32>,
    /// With [`ErrorCode::NotLeader`]: what the broker knows of who leads instead.
    pub leader: Option<LeaderHint>,
}

/// Who leads a shard, as a broker knows it that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// The shard.
    pub shard: ShardId,
    /// The latest term that the broker knows of.
    pub term: u64,
    /// The leader in that term; `None` while there is none, or the broker has not heard.
    pub leader: Option<BrokerId>,
}

impl WireError {
    /// An error with the code's own `retryable` mark. A text longer than
    /// [`ERROR_TEXT_BYTES_MAX`] is cut.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > ERROR_TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
        }
        Self {
            code,
            text,
            retryable: code.retryable(),
            record: None,
            leader: None,
        }
    }

    /// Says who leads instead.
    #[must_use]
    pub fn led_by(mut self, leader: LeaderHint) -> Self {
        self.leader = Some(leader);
        self
    }

    /// Names the record at fault.
    #[must_use]
    pub fn at_record(mut self, record: Option<u32>) -> Self {
        self.record = record;
        self
    }
}
