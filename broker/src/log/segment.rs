//! A segment: a file of batches, and what is known about it without reading it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use flumen_protocol::{batch::BatchHeader, ids::Offset};
use parking_lot::Mutex;

use super::{
    checkpoint::SegmentCheckpoint,
    frame::{SEGMENT_HEADER_LEN, frame_bytes},
    index::{IndexBuilder, IndexEntry, SparseIndex, floor, floor_by_time},
    names::SegmentKey,
    open_files::OpenSegment,
};

/// Numbers segments, so that one is never taken for another that had its name before.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A segment. What is in it up to [`SegmentInfo::bytes`] never changes.
#[derive(Debug)]
pub(super) struct Segment {
    /// Unlike its name, never used again.
    pub(super) id: u64,
    /// Its name.
    pub(super) key: SegmentKey,
    state: Mutex<SegmentState>,
    /// Bytes that a saved checkpoint names: what the write-ahead log need not have any more.
    saved_bytes: AtomicU64,
    removed: AtomicBool,
}

/// What is known about a segment's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentInfo {
    /// The offset after the last record.
    pub(super) end_offset: Offset,
    /// Bytes of the file that hold data; what lies behind is no part of the segment.
    pub(super) bytes: u64,
    /// Whether it takes no more batches.
    pub(super) sealed: bool,
    /// The largest timestamp of its records.
    pub(super) max_timestamp_ms: i64,
    /// When its first batch was appended.
    pub(super) first_append_ms: u64,
    /// When its last batch was appended.
    pub(super) last_append_ms: u64,
}

#[derive(Debug)]
struct SegmentState {
    info: SegmentInfo,
    /// The index of what was written since the segment was opened; nothing once it is sealed.
    index: IndexBuilder,
    unsynced: Unsynced,
}

/// Whether a segment has data that is not durable, and how to make it so.
#[derive(Clone, Debug, Default)]
pub(super) enum Unsynced {
    /// All is durable.
    #[default]
    Nothing,
    /// To be synced through this very handle if it still exists: only the handle that wrote is
    /// sure to be told of a failure.
    Through(Weak<OpenSegment>),
    /// Several handles wrote: only a sync of the whole file system is sure to be told.
    Anyhow,
}

impl Unsynced {
    fn written_through(&self, open: &Arc<OpenSegment>) -> Self {
        match self {
            Self::Through(before) if before.as_ptr() != Arc::as_ptr(open) => Self::Anyhow,
            Self::Anyhow => Self::Anyhow,
            Self::Nothing | Self::Through(_) => Self::Through(Arc::downgrade(open)),
        }
    }
}

impl Segment {
    /// A segment without batches.
    pub(super) fn new(key: SegmentKey) -> Self {
        Self::with(
            key,
            SegmentInfo {
                end_offset: key.base_offset,
                bytes: SEGMENT_HEADER_LEN as u64,
                sealed: false,
                max_timestamp_ms: i64::MIN,
                first_append_ms: u64::MAX,
                last_append_ms: 0,
            },
            0,
        )
    }

    /// A segment that a checkpoint describes.
    pub(super) fn recovered(key: SegmentKey, checkpoint: &SegmentCheckpoint) -> Self {
        Self::with(
            key,
            SegmentInfo {
                end_offset: checkpoint.end_offset,
                bytes: checkpoint.bytes,
                sealed: checkpoint.sealed,
                max_timestamp_ms: checkpoint.max_timestamp_ms,
                first_append_ms: checkpoint.first_append_ms,
                last_append_ms: checkpoint.last_append_ms,
            },
            checkpoint.bytes,
        )
    }

    fn with(key: SegmentKey, info: SegmentInfo, saved_bytes: u64) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            key,
            state: Mutex::new(SegmentState {
                index: IndexBuilder::starting_at(info.bytes, info.max_timestamp_ms),
                info,
                unsynced: Unsynced::Nothing,
            }),
            saved_bytes: AtomicU64::new(saved_bytes),
            removed: AtomicBool::new(false),
        }
    }

    pub(super) fn base_offset(&self) -> Offset {
        self.key.base_offset
    }

    pub(super) fn info(&self) -> SegmentInfo {
        self.state.lock().info
    }

    pub(super) fn end_offset(&self) -> Offset {
        self.info().end_offset
    }

    /// What a checkpoint says about it.
    pub(super) fn checkpoint(&self) -> SegmentCheckpoint {
        let info = self.info();
        SegmentCheckpoint {
            base_offset: self.key.base_offset,
            generation: self.key.generation,
            end_offset: info.end_offset,
            bytes: info.bytes,
            sealed: info.sealed,
            max_timestamp_ms: info.max_timestamp_ms,
            first_append_ms: info.first_append_ms,
            last_append_ms: info.last_append_ms,
        }
    }

    /// Makes batches that were written behind the end part of the segment. True if the segment
    /// had nothing before that was not durable.
    pub(super) fn advance<'a>(
        &self,
        headers: impl Iterator<Item = &'a BatchHeader>,
        index_interval: u64,
        open: &Arc<OpenSegment>,
    ) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        for header in headers {
            let info = &mut state.info;
            state.index.push(header, index_interval);
            info.bytes += frame_bytes(header, info.bytes);
            info.end_offset = header.base_offset.plus(header.offset_span.into());
            info.max_timestamp_ms = info.max_timestamp_ms.max(header.max_timestamp_ms);
            info.first_append_ms = info.first_append_ms.min(header.append_time_ms);
            info.last_append_ms = info.last_append_ms.max(header.append_time_ms);
        }
        let after = state.unsynced.written_through(open);
        let before = std::mem::replace(&mut state.unsynced, after);
        matches!(before, Unsynced::Nothing)
    }

    /// Takes no more batches from now on.
    pub(super) fn seal(&self) {
        self.state.lock().info.sealed = true;
    }

    /// The whole index, if memory has it.
    pub(super) fn index_in_memory(&self) -> Option<SparseIndex> {
        let state = self.state.lock();
        state.whole().then(|| state.index.clone().finish())
    }

    /// Frees the memory of the index.
    pub(super) fn drop_index(&self) {
        let mut state = self.state.lock();
        let (position, max) = (state.info.bytes, state.info.max_timestamp_ms);
        state.index = IndexBuilder::starting_at(position, max);
    }

    /// What must be synced, and takes it as done.
    pub(super) fn take_unsynced(&self) -> Unsynced {
        std::mem::take(&mut self.state.lock().unsynced)
    }

    /// Where to begin looking for `offset`, if memory knows.
    pub(super) fn floor_in_memory(&self, offset: Offset) -> Option<IndexEntry> {
        let state = self.state.lock();
        floor(&state.index.entries, offset).or_else(|| state.whole().then(|| self.first()))
    }

    /// Where to begin looking for a time, if memory knows.
    pub(super) fn floor_by_time_in_memory(&self, timestamp_ms: i64) -> Option<IndexEntry> {
        let state = self.state.lock();
        floor_by_time(&state.index.entries, timestamp_ms)
            .or_else(|| state.whole().then(|| self.first()))
    }

    /// Takes note that a saved checkpoint names so many bytes.
    pub(super) fn set_saved(&self, bytes: u64) {
        self.saved_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// How many bytes a saved checkpoint names.
    pub(super) fn saved_bytes(&self) -> u64 {
        self.saved_bytes.load(Ordering::Relaxed)
    }

    /// The place of the first batch.
    pub(super) fn first(&self) -> IndexEntry {
        IndexEntry::first(self.key.base_offset)
    }

    /// Its file may be gone from now on; those who have it open can go on reading.
    pub(super) fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Whether its file may be gone.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

impl SegmentState {
    /// Whether the index in memory begins with the segment.
    fn whole(&self) -> bool {
        self.index.is_whole()
    }
}
