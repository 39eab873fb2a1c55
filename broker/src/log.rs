//! The logs of partitions: segments on disk, their recent batches in memory, and the registry of
//! all logs of a broker.
//!
//! ```text
//!  append ──► tail (memory) ──► flusher ──► segment ─► segment ─► active segment
//!               │                              │ sealed: retention, compaction
//!  read ────────┴── recent: at once            └── older: DiskRead, where blocking is allowed
//! ```
//!
//! The write-ahead log holds every batch before it comes here. That makes writing cheap: batches
//! are collected and written in large pieces, and nothing is synced until a [`LogCheckpoint`] is
//! made, which lets the write-ahead log forget them. The checkpoint is the manifest: when a log is
//! opened, its files are cut back to what the checkpoint names, and the rest is appended again.
//!
//! Invariants:
//! - what lies in a segment below its length never changes; compaction writes new files;
//! - files that a saved checkpoint names are not removed, but by retention, which leaves a mark;
//! - a checkpoint is made when all that it names and the last one does not is there: not before may
//!   the write-ahead log forget it;
//! - no lock that an appender or a reader takes is held during I/O;
//! - a partition that was never written has no files.
//!
//! ```
//! # use flumen_broker::{disk::SimulatedDisk, log::*};
//! # use flumen_protocol::{batch::*, ids::*};
//! # use std::sync::Arc;
//! let disk = Arc::new(SimulatedDisk::new());
//! let store = LogStore::open(disk, "/logs", LogStoreOptions::default())?;
//! let id = PartitionId { topic: TopicId(1), index: 0 };
//! let log = store.open_partition(id, LogOptions::default(), &LogCheckpoint::default())?;
//!
//! let mut builder = BatchBuilder::new();
//! builder.push(&RecordRef::new(0, b"hello"))?;
//! log.append(builder.build(Codec::None)?.placed(Offset(0), 1_700_000_000_000));
//!
//! let reader = log.reader();
//! match reader.read(Offset(0), 1 << 20, reader.end_offset()) {
//!     ReadOutcome::Memory(batches) => assert_eq!(batches.len(), 1),
//!     other => panic!("a recent batch is in memory, but: {other:?}"),
//! }
//! let checkpoint = log.checkpoint()?;
//! // Once the checkpoint is saved somewhere durable:
//! log.checkpoint_saved(&checkpoint);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod budget;
mod checkpoint;
mod compact;
mod flusher;
pub(crate) mod frame;
pub(crate) mod index;
mod names;
mod open_files;
mod options;
mod partition;
mod read;
mod recover;
mod retention;
mod salvage;
mod scan;
mod segment;
mod store;
mod sync;
mod tail;
mod time;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    checkpoint::{LogCheckpoint, SegmentCheckpoint},
    compact::{CLEAN_BYTES_PER_DIRTY_BYTE_MAX, COMPACTION_KEYS_MAX, CompactError, Compaction},
    frame::FrameError,
    options::{
        BATCH_OVERHEAD_BYTES, FLUSH_AGE_MAX, FLUSH_BYTES, FlushMode, INDEX_ENTRIES_MAX, LogOptions,
        LogStoreOptions, RETRY_INTERVAL, SEGMENT_AGE_MS_MAX, SEGMENT_AGE_MS_MIN, WRITE_BATCHES_MAX,
        WRITE_BYTES_MAX,
    },
    partition::PartitionLog,
    read::{DiskRead, LogReader, READ_BYTES_MAX, ReadError, ReadOutcome},
    recover::OpenError,
    retention::RetentionError,
    store::LogStore,
    sync::{CheckpointError, Found, SYNC_FILES_MAX},
    write::FlushError,
};
