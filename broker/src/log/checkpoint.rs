//! What a log promises to find again: the manifest of its files at one moment.
//!
//! The shard keeps it in its own checkpoint, next to the position in the write-ahead log that it
//! belongs to. That one file decides what is there: whatever a log has on disk that its
//! checkpoint does not name is removed when it is opened, and was never needed.

use flumen_protocol::ids::Offset;
use serde::{Deserialize, Serialize};

/// The state of a partition's log at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCheckpoint {
    /// The first offset that can be read.
    pub start_offset: Offset,
    /// The offset that the next record gets.
    pub end_offset: Offset,
    /// The segments, by rising offset; the last one may grow.
    pub segments: Vec<SegmentCheckpoint>,
    /// Up to where no key occurs twice.
    pub compacted_to: Offset,
    /// When the oldest tombstone below `compacted_to` was appended.
    pub oldest_tombstone_ms: Option<u64>,
    /// Counts the rewrites of compaction, to tell which files this checkpoint needs no more.
    pub version: u64,
}

/// One segment of a [`LogCheckpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCheckpoint {
    /// The offset in the file's name.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub end_offset: Offset,
    /// Bytes of the file.
    pub bytes: u64,
    /// How often compaction has rewritten it.
    pub generation: u32,
    /// Whether it takes no more batches.
    pub sealed: bool,
    /// The largest timestamp of its records, in milliseconds since the epoch.
    pub max_timestamp_ms: i64,
    /// When its first batch was appended, in milliseconds since the epoch.
    pub first_append_ms: u64,
    /// When its last batch was appended, in milliseconds since the epoch.
    pub last_append_ms: u64,
}

impl LogCheckpoint {
    /// An empty log whose first record gets `offset`: a new partition, or a replica that takes
    /// over from a snapshot.
    pub fn empty_at(offset: Offset) -> Self {
        Self {
            start_offset: offset,
            end_offset: offset,
            compacted_to: offset,
            ..Self::default()
        }
    }
}
