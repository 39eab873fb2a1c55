//! The files of segments that are open, under one budget for all partitions of a broker.
//!
//! Whoever reads or writes holds the file by a reference, so closing one here, or removing it,
//! never pulls it away from under a reader.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flumen_protocol::ids::Offset;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    frame::{FrameError, SEGMENT_HEADER_LEN, encode_segment_header},
    index::{IndexEntry, SparseIndex, floor, floor_by_time},
    read::ReadError,
    segment::{Segment, SegmentInfo},
    walk::Walk,
};
use crate::disk::{Disk, File};

/// Ends of recent reads that a file remembers: as many readers continue without a lookup.
const HINTS_MAX: usize = 8;

/// The open files, least recently used out first.
#[derive(Debug)]
pub(super) struct OpenFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files_max: usize,
    clock: AtomicU64,
    files: Mutex<FxHashMap<u64, Slot>>,
}

#[derive(Debug)]
struct Slot {
    file: Arc<OpenSegment>,
    last_used: u64,
}

/// A segment's open file and what helps to find batches in it.
#[derive(Debug)]
pub(super) struct OpenSegment {
    /// The file.
    pub(super) file: Arc<dyn File>,
    index: Mutex<Option<Arc<SparseIndex>>>,
    hints: Mutex<Hints>,
}

#[derive(Debug, Default)]
struct Hints {
    ends: [(u64, u64); HINTS_MAX],
    next: usize,
}

impl OpenFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, files_max: usize) -> Self {
        Self {
            disk,
            dir,
            files_max: files_max.max(1),
            clock: AtomicU64::new(0),
            files: Mutex::default(),
        }
    }

    /// The file of a segment, opened if need be. Blocks.
    pub(super) fn get(&self, segment: &Segment) -> Result<Arc<OpenSegment>, ReadError> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.files.lock().get_mut(&segment.id) {
            slot.last_used = now;
            return Ok(Arc::clone(&slot.file));
        }
        let path = segment.key.segment_path(&self.dir);
        let file = self
            .disk
            .open(&path)
            .map_err(|source| ReadError::io(path.clone(), 0, source))?;
        let mut header = Vec::with_capacity(SEGMENT_HEADER_LEN);
        file.read_onto(&mut header, SEGMENT_HEADER_LEN, 0)
            .map_err(|source| ReadError::io(path.clone(), 0, source))?;
        if header != encode_segment_header(&segment.key) {
            return Err(ReadError::damaged(path, 0, FrameError::ForeignFile));
        }
        Ok(self.insert(segment, file))
    }

    /// Takes a file that was just created.
    pub(super) fn insert(&self, segment: &Segment, file: Arc<dyn File>) -> Arc<OpenSegment> {
        let last_used = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut files = self.files.lock();
        if let Some(slot) = files.get_mut(&segment.id) {
            // Another thread was faster; all shall share one handle.
            return Arc::clone(&slot.file);
        }
        let mut closed = None;
        if files.len() >= self.files_max
            && let Some(oldest) = oldest(&files)
        {
            closed = files.remove(&oldest);
        }
        let file = Arc::new(OpenSegment {
            file,
            index: Mutex::default(),
            hints: Mutex::default(),
        });
        let slot = Slot {
            file: Arc::clone(&file),
            last_used,
        };
        files.insert(segment.id, slot);
        drop(files);
        // Closing may block: not under the lock.
        drop(closed);
        file
    }

    /// Closes the file of a segment that is no more, once its last reader is done.
    pub(super) fn forget(&self, segment: &Segment) {
        let closed = self.files.lock().remove(&segment.id);
        drop(closed);
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.files.lock().len()
    }
}

fn oldest(files: &FxHashMap<u64, Slot>) -> Option<u64> {
    let slots = files.iter();
    slots
        .min_by_key(|(_, slot)| slot.last_used)
        .map(|(id, _)| *id)
}

impl OpenSegment {
    /// Where to begin looking for the batch that holds `offset`.
    pub(super) fn floor(
        &self,
        files: &OpenFiles,
        segment: &Segment,
        offset: Offset,
    ) -> Result<IndexEntry, ReadError> {
        if let Some(position) = self.hints.lock().find(offset) {
            return Ok(IndexEntry {
                offset,
                position,
                max_before_ms: i64::MIN,
            });
        }
        if let Some(entry) = segment.floor_in_memory(offset) {
            return Ok(entry);
        }
        let index = self.index(files, segment)?;
        Ok(floor(&index.entries, offset).unwrap_or_else(|| segment.first()))
    }

    /// Where to begin looking for the first batch with a timestamp of at least `timestamp_ms`.
    pub(super) fn floor_by_time(
        &self,
        files: &OpenFiles,
        segment: &Segment,
        timestamp_ms: i64,
    ) -> Result<IndexEntry, ReadError> {
        if let Some(entry) = segment.floor_by_time_in_memory(timestamp_ms) {
            return Ok(entry);
        }
        let index = self.index(files, segment)?;
        Ok(floor_by_time(&index.entries, timestamp_ms).unwrap_or_else(|| segment.first()))
    }

    /// Remembers that a read ended in front of `offset`, at `position`.
    pub(super) fn hint(&self, offset: Offset, position: u64) {
        let mut hints = self.hints.lock();
        let at = hints.next % HINTS_MAX;
        hints.ends[at] = (offset.0, position);
        hints.next = at + 1;
    }

    /// The index of what memory has none of, loaded or rebuilt.
    fn index(&self, files: &OpenFiles, segment: &Segment) -> Result<Arc<SparseIndex>, ReadError> {
        let info = segment.info();
        // One thread rebuilds, the others wait for it.
        let mut cached = self.index.lock();
        if let Some(index) = &*cached
            && (index.covers_bytes == info.bytes || !info.sealed)
        {
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(self.load_index(files, segment, info)?);
        *cached = Some(Arc::clone(&index));
        Ok(index)
    }

    fn load_index(
        &self,
        files: &OpenFiles,
        segment: &Segment,
        info: SegmentInfo,
    ) -> Result<SparseIndex, ReadError> {
        let (disk, dir, key) = (&*files.disk, &files.dir, &segment.key);
        if info.sealed
            && let Some(index) = SparseIndex::load(disk, dir, key, info.bytes)
        {
            return Ok(index);
        }
        let interval = (info.bytes / super::options::INDEX_ENTRIES_MAX).max(REBUILD_INTERVAL_BYTES);
        let index = Walk::new(segment, dir, &*self.file, info).build_index(interval)?;
        if info.sealed && !segment.is_removed() {
            // A full disk does not keep anyone from reading.
            if let Err(error) = index.save(disk, dir, key) {
                tracing::debug!(%error, ?key, "the rebuilt index was not saved");
            }
        }
        Ok(index)
    }
}

/// Bytes between two entries of an index that is rebuilt.
const REBUILD_INTERVAL_BYTES: u64 = 64 * 1024;

impl Hints {
    fn find(&self, offset: Offset) -> Option<u64> {
        let found = self
            .ends
            .iter()
            .find(|(end, at)| *end == offset.0 && *at != 0);
        found.map(|(_, position)| *position)
    }
}
