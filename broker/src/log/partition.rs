//! The log of one partition: the handle through which it is written.

use std::{collections::VecDeque, sync::Arc};

use flumen_protocol::{
    batch::Batch,
    ids::{Offset, PartitionId},
};
use parking_lot::Mutex;

use super::{
    LogCheckpoint, LogOptions, LogReader, ReadError,
    flusher::Due,
    names::{SegmentKey, StartMark},
    segment::Segment,
    store::StoreShared,
    sync::CheckpointError,
    tail::{Tail, cost},
    write::{FlushError, Writer},
};

/// The log of one partition. Cheap to clone; all clones are the same log.
#[derive(Clone, Debug)]
pub struct PartitionLog {
    pub(super) log: Arc<Log>,
}

/// What all handles of a log share.
///
/// Locks are taken in this order: compacting, maintenance, writer, state. Only `state` is taken by readers
/// and appenders, and never held during I/O.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: PartitionId,
    pub(super) store: Arc<StoreShared>,
    /// Held by the one that compacts.
    pub(super) compacting: Mutex<()>,
    /// Held by those that remove or replace segments.
    pub(super) maintenance: Mutex<()>,
    /// Held by the one that writes.
    pub(super) writer: Mutex<Writer>,
    pub(super) state: Mutex<State>,
}

/// What is known about a log without reading its files.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: LogOptions,
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// Segments with at least one batch each, by rising offset; only the last may grow.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) tail: Tail,
    pub(super) compacted_to: Offset,
    pub(super) oldest_tombstone_ms: Option<u64>,
    /// Counts the times that segments were replaced or removed.
    pub(super) version: u64,
    /// Segments that were replaced, with the version that has them no more. Checkpoints before
    /// that version need their files.
    pub(super) obsolete: Vec<(u64, Arc<Segment>)>,
    /// Segments with data that is not durable.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Whether files were created that the directory may forget in a crash.
    pub(super) names_unsynced: bool,
    /// The files that say what retention removed: one, but for the time right after a crash.
    pub(super) start_marks: Vec<StartMark>,
    /// Where the log waits for the flusher.
    pub(super) due: Due,
    pub(super) removed: bool,
}

impl State {
    /// The first segment that holds a batch which ends behind `offset`.
    pub(super) fn segment_after(&self, offset: Offset) -> Option<&Arc<Segment>> {
        let at = self
            .segments
            .partition_point(|segment| segment.end_offset() <= offset);
        self.segments.get(at)
    }

    /// The segment that takes more batches, if there is one.
    pub(super) fn active(&self) -> Option<&Arc<Segment>> {
        self.segments
            .back()
            .filter(|segment| !segment.info().sealed)
    }
}

impl PartitionLog {
    /// Which partition it is.
    pub fn id(&self) -> PartitionId {
        self.log.id
    }

    /// Appends a batch whose place and append time are in its header. Memory only: it neither
    /// blocks nor fails, and the batch can be read at once. A batch without records is ignored.
    ///
    /// # Panics
    /// When the batch begins before the end of the log: who appends counts the offsets.
    pub fn append(&self, batch: Batch) {
        let header = batch.header();
        if header.offset_span == 0 {
            return;
        }
        let bytes = cost(&batch);
        let mut state = self.log.state.lock();
        assert!(
            batch.base_offset() >= state.end,
            "partition {} ends at offset {}, so a batch cannot begin at {}",
            self.log.id,
            state.end,
            batch.base_offset(),
        );
        if state.removed {
            return;
        }
        // Before anybody can write it, and take it off the count.
        let pressed = self.log.store.flusher.count(bytes);
        state.end = batch.end_offset();
        state.tail.push(batch);
        let unflushed = state.tail.unflushed_bytes();
        let wanted = state.due.rise(unflushed);
        drop(state);
        self.log.store.flusher.appended(&self.log, wanted, pressed);
    }

    /// Writes what is not written yet. Blocks. No sync: that is what checkpoints are for.
    ///
    /// # Errors
    /// When the disk takes no more; what was not written stays in memory and can be read.
    pub fn flush(&self) -> Result<(), FlushError> {
        self.log.flush_to(Offset(u64::MAX))
    }

    /// Writes and syncs all that is in the log, and says what to recover to. Blocks. For many
    /// logs, or when batches may arrive meanwhile, use
    /// [`LogStore::checkpoint`](super::LogStore::checkpoint).
    ///
    /// # Errors
    /// When the disk takes no more, which may be tried again, or a sync failed, which is final.
    pub fn checkpoint(&self) -> Result<LogCheckpoint, CheckpointError> {
        let end = self.log.state.lock().end;
        let logs = [(self.clone(), end)];
        let mut checkpoints = super::sync::checkpoint(&self.log.store, &logs)?;
        Ok(checkpoints.pop().expect("there is one checkpoint a log"))
    }

    /// Whether there is something that `saved`, the last checkpoint of this log, does not have:
    /// batches, segments that retention or compaction removed, or that compaction found nothing to
    /// remove. Old files stay until a checkpoint without them is saved.
    pub fn needs_checkpoint(&self, saved: &LogCheckpoint) -> bool {
        let state = self.log.state.lock();
        state.end != saved.end_offset
            || state.version != saved.version
            || state.compacted_to > saved.compacted_to
    }

    /// Tells that `checkpoint` is durable: from now on nobody asks for one before it, so files
    /// that only those needed can go. Blocks.
    pub fn checkpoint_saved(&self, checkpoint: &LogCheckpoint) {
        self.log.note_saved(checkpoint);
        self.log.remove_obsolete(checkpoint.version);
    }

    /// A reader of the log.
    pub fn reader(&self) -> LogReader {
        LogReader {
            log: Arc::clone(&self.log),
        }
    }

    /// The settings.
    pub fn options(&self) -> LogOptions {
        self.log.state.lock().options
    }

    /// Changes the settings, from the next write, retention or compaction on.
    pub fn configure(&self, options: LogOptions) {
        self.log.state.lock().options = options;
    }
}

impl Log {
    pub(super) fn size_bytes(&self) -> u64 {
        let state = self.state.lock();
        let written: u64 = state.segments.iter().map(|s| s.info().bytes).sum();
        written + state.tail.unflushed_bytes()
    }

    /// Takes note of what a checkpoint names that is durable.
    fn note_saved(&self, checkpoint: &LogCheckpoint) {
        let state = self.state.lock();
        for saved in &checkpoint.segments {
            let at = state
                .segments
                .partition_point(|segment| segment.base_offset() < saved.base_offset);
            let key = SegmentKey::of(self.id, saved);
            if let Some(segment) = state.segments.get(at).filter(|found| found.key == key) {
                segment.set_saved(saved.bytes);
            }
        }
    }

    /// Removes the files that only checkpoints before `version` need.
    fn remove_obsolete(&self, version: u64) {
        let _maintenance = self.maintenance.lock();
        let (obsolete, marks) = {
            let mut state = self.state.lock();
            let old = state.obsolete.extract_if(.., |(at, _)| *at <= version);
            let obsolete: Vec<_> = old.map(|(_, segment)| segment).collect();
            let old = state
                .start_marks
                .extract_if(.., |mark| mark.version <= version);
            let marks: Vec<_> = old.collect();
            (obsolete, marks)
        };
        for segment in obsolete {
            self.store.remove_files(&segment);
        }
        self.remove_marks(&marks);
    }

    pub(super) fn remove_marks(&self, marks: &[StartMark]) {
        for mark in marks {
            self.store.remove_file(&mark.path(&self.store.dir, self.id));
        }
    }

    /// Takes note of what a read came by, if the log is open and its file is to blame.
    pub(super) fn note_damage(&self, error: &ReadError) {
        if error.is_damage() && self.note_lost() {
            tracing::error!(partition = %self.id, %error, "a read has found damage");
        }
    }

    /// Takes note that not all is there, if the log is open. Returns whether that is news.
    pub(super) fn note_lost(&self) -> bool {
        // Kept, or it might be noted of a log that has been ended and is open again.
        let state = self.state.lock();
        !state.removed && self.store.note_damage(self.id)
    }

    /// Ends the log and removes its files.
    pub(super) fn remove(&self) {
        let _maintenance = self.maintenance.lock();
        let (segments, marks) = self.end();
        for segment in segments {
            self.store.remove_files(&segment);
        }
        self.remove_marks(&marks);
    }

    /// Ends the log and leaves its files.
    pub(super) fn close(&self) {
        let _maintenance = self.maintenance.lock();
        for segment in self.end().0 {
            segment.set_removed();
            self.store.files.forget(&segment);
        }
    }

    /// Takes no more and has nothing any more. Gives what it had.
    pub(super) fn end(&self) -> (Vec<Arc<Segment>>, Vec<StartMark>) {
        let _writer = self.writer.lock();
        let mut state = self.state.lock();
        state.removed = true;
        state.start = state.end;
        state.unsynced.clear();
        let (flushed, unflushed) = state.tail.clear();
        self.store.budget.dropped(flushed);
        self.store.flusher.flushed(unflushed);
        let obsolete = std::mem::take(&mut state.obsolete);
        let mut segments: Vec<_> = std::mem::take(&mut state.segments).into();
        segments.extend(obsolete.into_iter().map(|(_, segment)| segment));
        (segments, std::mem::take(&mut state.start_marks))
    }
}
