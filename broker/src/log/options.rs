//! Settings: those of one log, which come from its topic, and those of all logs of a broker.

use std::time::Duration;

use flumen_protocol::topic::{Cleanup, TopicConfig};

/// Bytes of unflushed batches of one partition that make the flusher write them.
pub const FLUSH_BYTES: u64 = 1024 * 1024;

/// Bytes that one write to a segment takes at most, unless a single batch is larger.
pub const WRITE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Batches that one write to a segment takes at most.
pub const WRITE_BATCHES_MAX: usize = 1024;

/// How long a batch waits for others before it is written. Nothing is at stake meanwhile: the
/// write-ahead log holds it, and readers get it from memory.
pub const FLUSH_AGE_MAX: Duration = Duration::from_millis(500);

/// How often a write that failed is tried again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Memory that a batch takes besides its bytes; counted so that many tiny ones are bounded, too.
pub const BATCH_OVERHEAD_BYTES: u64 = 256;

/// Entries of a segment's index, at most; large segments get a wider interval.
pub const INDEX_ENTRIES_MAX: u64 = 4096;

/// The age at which a segment is sealed though it is not full, so that retention and compaction
/// reach the records of quiet partitions, too.
pub const SEGMENT_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The least age of a segment that is sealed before it is full.
pub const SEGMENT_AGE_MS_MIN: u64 = 1000;

/// A segment is sealed once it has covered this part of its topic's retention by age.
const SEGMENT_AGES_PER_RETENTION: u64 = 4;

/// The settings of one partition's log. They may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes after which a new segment starts. Default: 256 MiB.
    pub segment_bytes: u64,
    /// How long a record is kept at least, in milliseconds, counted from when the broker
    /// appended it. Default: 7 days; `None` keeps it for ever.
    ///
    /// The time at which a producer says that a record happened is no measure: one wrong clock
    /// would keep a segment for ever, or remove records that have only just arrived.
    pub retention_age_ms: Option<u64>,
    /// Bytes that are kept at least; older segments go. Default: `None`, no limit.
    pub retention_bytes: Option<u64>,
    /// What happens to old records. Default: delete.
    pub cleanup: Cleanup,
    /// How long compaction keeps a tombstone, in milliseconds, counted from when the broker
    /// appended it. Default: 1 day.
    pub tombstone_retention_ms: u64,
    /// Bytes between two entries of the sparse index: what a reader that starts somewhere may
    /// read in vain. Default: 64 KiB.
    pub index_interval_bytes: u64,
}

impl LogOptions {
    /// Bytes between two entries of an index, widened so that a large segment's stays small.
    pub(super) fn index_interval(&self) -> u64 {
        self.index_interval_bytes
            .max(self.segment_bytes / INDEX_ENTRIES_MAX)
    }

    /// The age at which a segment is sealed though it is not full.
    pub(super) fn segment_age_ms(&self) -> u64 {
        let by_retention = match (self.cleanup, self.retention_age_ms) {
            (Cleanup::Delete, Some(age)) => age / SEGMENT_AGES_PER_RETENTION,
            _ => SEGMENT_AGE_MS_MAX,
        };
        by_retention.clamp(SEGMENT_AGE_MS_MIN, SEGMENT_AGE_MS_MAX)
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::from(&TopicConfig::default())
    }
}

impl From<&TopicConfig> for LogOptions {
    fn from(config: &TopicConfig) -> Self {
        Self {
            segment_bytes: config.segment_bytes,
            retention_age_ms: config.retention_age_ms,
            retention_bytes: config.retention_bytes,
            cleanup: config.cleanup,
            tombstone_retention_ms: config.tombstone_retention_ms,
            index_interval_bytes: 64 * 1024,
        }
    }
}

/// Who writes batches to their segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// A thread of the store.
    #[default]
    Background,
    /// The caller, by [`PartitionLog::flush`](super::PartitionLog::flush) and
    /// [`LogStore::flush_all`](super::LogStore::flush_all): for tests that decide about each step.
    Manual,
}

/// The settings of all logs of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStoreOptions {
    /// Bytes of batches that are kept in memory for readers although they are on disk.
    /// Default: 256 MiB.
    pub tail_bytes_max: u64,
    /// Bytes of batches that are in memory because they are not on disk yet. The log itself never
    /// refuses a batch: who appends asks [`LogStore::has_room`](super::LogStore::has_room) before
    /// it takes new work. Default: 128 MiB.
    pub unflushed_bytes_max: u64,
    /// Files of segments that are open at the same time. Default: 1,024.
    pub open_files_max: usize,
    /// Who writes. Default: a thread.
    pub flush_mode: FlushMode,
}

impl Default for LogStoreOptions {
    fn default() -> Self {
        Self {
            tail_bytes_max: 256 * 1024 * 1024,
            unflushed_bytes_max: 128 * 1024 * 1024,
            open_files_max: 1024,
            flush_mode: FlushMode::Background,
        }
    }
}
