//! Writing batches to segments: large vectored writes, header and body as they are.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use flumen_protocol::{batch::Batch, ids::Offset};

use super::{
    frame::{Frames, SEGMENT_HEADER_LEN, encode_segment_header, frame_bytes},
    names::{SegmentKey, topic_dir},
    open_files::OpenSegment,
    partition::Log,
    read::ReadError,
    segment::Segment,
};
use crate::disk::is_full;

/// Why batches could not be written. They stay in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The disk is full.
    #[error("no space left to write {}; free some or add some", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("cannot write {}: {source}; check the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The segment could not be opened again.
    #[error("cannot go on with a segment: {0}")]
    Open(#[from] ReadError),
}

impl FlushError {
    pub(super) fn new(path: PathBuf, source: io::Error) -> Self {
        if is_full(&source) {
            Self::NoSpace { path }
        } else {
            Self::Io { path, source }
        }
    }

    /// Whether it is the disk that has no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// What only the one that writes needs; its lock keeps writers apart.
#[derive(Debug, Default)]
pub(super) struct Writer;

/// A segment that batches are about to go to.
struct Target {
    segment: Arc<Segment>,
    open: Arc<OpenSegment>,
    is_new: bool,
}

impl Log {
    /// Writes all batches that begin before `to`.
    pub(super) fn flush_to(self: &Arc<Self>, to: Offset) -> Result<(), FlushError> {
        let mut writer = self.writer.lock();
        while self.write_some(&mut writer, to)? {}
        Ok(())
    }

    /// One write. False if there was nothing to do.
    fn write_some(self: &Arc<Self>, _writer: &mut Writer, to: Offset) -> Result<bool, FlushError> {
        let Some(first) = self.first_unflushed(to) else {
            return Ok(false);
        };
        let target = self.target(&first)?;
        let position = target.segment.info().bytes;
        let batches = {
            let state = self.state.lock();
            let room = state.options.segment_bytes.saturating_sub(position);
            let mut end = position;
            state.tail.to_write(room, |batch| {
                let bytes = frame_bytes(batch.header(), end);
                end += bytes;
                bytes
            })
        };
        self.write(&target, position, &batches)?;
        self.publish(&target, &batches);
        Ok(true)
    }

    fn first_unflushed(&self, to: Offset) -> Option<Batch> {
        let state = self.state.lock();
        let first = state.tail.first_unflushed()?;
        (!state.removed && first.base_offset() < to).then(|| first.clone())
    }

    /// The active segment if it has room for `first`, or a new one.
    fn target(&self, first: &Batch) -> Result<Target, FlushError> {
        let (active, segment_bytes) = {
            let state = self.state.lock();
            (state.active().cloned(), state.options.segment_bytes)
        };
        if let Some(segment) = active {
            let position = segment.info().bytes;
            if position + frame_bytes(first.header(), position) <= segment_bytes {
                match self.store.files.get(&segment) {
                    Ok(open) => {
                        return Ok(Target {
                            segment,
                            open,
                            is_new: false,
                        });
                    }
                    // What is new need not suffer from what is old. That is missed where it is
                    // read, and once it is known, got from other replicas.
                    Err(error) if error.is_damage() => {
                        tracing::error!(%error, "a new segment is begun");
                        self.note_damage(&error);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.seal(&segment);
        }
        self.create(first.base_offset())
    }

    /// Ends a segment. The caller holds the writer.
    pub(super) fn seal(&self, segment: &Segment) {
        segment.seal();
        if let Some(index) = segment.index_in_memory()
            && let Err(error) = index.save(&*self.store.disk, &self.store.dir, &segment.key)
        {
            tracing::debug!(%error, key = ?segment.key, "the index was not saved");
        }
        segment.drop_index();
    }

    fn create(&self, base_offset: Offset) -> Result<Target, FlushError> {
        let key = SegmentKey {
            partition: self.id,
            base_offset,
            generation: 0,
        };
        let path = key.segment_path(&self.store.dir);
        let dir = topic_dir(&self.store.dir, self.id.topic);
        let file = self
            .store
            .ensure_topic_dir(&dir)
            .and_then(|()| self.store.disk.create(&path))
            .map_err(|source| FlushError::new(path, source))?;
        let segment = Arc::new(Segment::new(key));
        let open = self.store.files.insert(&segment, file);
        Ok(Target {
            segment,
            open,
            is_new: true,
        })
    }

    fn write(&self, target: &Target, position: u64, batches: &[Batch]) -> Result<(), FlushError> {
        let head = encode_segment_header(&target.segment.key);
        let frames = Frames::at(position, batches);
        let mut slices = Vec::with_capacity(1 + 3 * batches.len());
        let mut from = position;
        if target.is_new {
            slices.push(IoSlice::new(&head));
            from -= SEGMENT_HEADER_LEN as u64;
        }
        slices.extend(frames.slices());
        let written = target.open.file.write_through(&mut slices, from);
        written.map_err(|source| {
            if target.is_new {
                self.store.files.forget(&target.segment);
            }
            FlushError::new(target.segment.key.segment_path(&self.store.dir), source)
        })
    }

    /// Lets readers see what was written, and the tail forget it when it must.
    fn publish(self: &Arc<Self>, target: &Target, batches: &[Batch]) {
        let mut state = self.state.lock();
        let headers = batches.iter().map(Batch::header);
        let interval = state.options.index_interval();
        if target.segment.advance(headers, interval, &target.open) {
            state.unsynced.push(Arc::clone(&target.segment));
        }
        if target.is_new {
            state.segments.push_back(Arc::clone(&target.segment));
            state.names_unsynced = true;
        }
        let bytes = state.tail.set_flushed(batches.len());
        let to = state
            .tail
            .first_unflushed()
            .map_or(state.end, Batch::base_offset);
        drop(state);
        self.store.flusher.flushed(bytes);
        self.store.budget.flushed(self, to, bytes);
    }
}
