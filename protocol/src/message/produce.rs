//! Produce streams: batches one way, their outcomes the other way.

use serde::{Deserialize, Serialize};

use crate::{error::WireError, ids::Offset, topic::TopicName};

/// Opens a produce stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceOpen {
    /// The topic.
    pub topic: TopicName,
    /// The partition's index.
    pub partition: u32,
}

/// A frame from the producer; the payload is one encoded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceBatch;

/// A frame to the producer: the outcomes of its batches, in the order in which they were
/// sent on this stream. Several may share a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceAcks {
    /// One outcome a batch.
    pub outcomes: Vec<ProduceOutcome>,
}

/// What became of a batch.
pub type ProduceOutcome = Result<ProduceReceipt, WireError>;

/// A batch is durable as the broker's sync policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceReceipt {
    /// The offset of its first record; the others follow one by one. `None` unless each record is
    /// known to be stored in its place: plugins may have dropped some, made several of one, or sent
    /// some elsewhere.
    pub base_offset: Option<Offset>,
    /// How many records were stored for it; plugins may have dropped some, or made more of them.
    pub stored: u32,
    /// When it was appended, in milliseconds since the epoch.
    pub append_time_ms: u64,
    /// Whether the broker had it already.
    pub duplicate: bool,
}
