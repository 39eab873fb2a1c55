//! The segment that compaction writes.

use std::{io::IoSlice, sync::Arc};

use flumen_protocol::batch::Batch;

use super::CompactError;
use crate::log::{
    frame::{Frames, encode_segment_header},
    names::{SegmentKey, topic_dir},
    open_files::OpenSegment,
    options::{WRITE_BATCHES_MAX, WRITE_BYTES_MAX},
    segment::Segment,
    store::StoreShared,
    write::FlushError,
};

/// A segment that takes batches one by one. Its file is made with the first one, and removed
/// unless [`Output::finish`] is reached.
pub(super) struct Output<'a> {
    store: &'a StoreShared,
    index_interval: u64,
    segment: Arc<Segment>,
    open: Option<Arc<OpenSegment>>,
    pending: Vec<Batch>,
    pending_bytes: u64,
    finished: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(store: &'a StoreShared, key: SegmentKey, index_interval: u64) -> Self {
        Self {
            store,
            index_interval,
            segment: Arc::new(Segment::new(key)),
            open: None,
            pending: Vec::new(),
            pending_bytes: 0,
            finished: false,
        }
    }

    pub(super) fn push(&mut self, batch: Batch) -> Result<(), CompactError> {
        self.pending_bytes += batch.encoded_len() as u64;
        self.pending.push(batch);
        if self.pending_bytes >= WRITE_BYTES_MAX || self.pending.len() >= WRITE_BATCHES_MAX {
            self.write()?;
        }
        Ok(())
    }

    /// Makes all that was pushed durable, its name included. `None` if nothing was.
    pub(super) fn finish(mut self) -> Result<Option<Arc<Segment>>, CompactError> {
        self.write()?;
        let Some(open) = self.open.take() else {
            self.finished = true;
            return Ok(None);
        };
        let key = &self.segment.key;
        let path = key.segment_path(&self.store.dir);
        let dir = topic_dir(&self.store.dir, key.partition.topic);
        open.file
            .sync_data()
            .and_then(|()| self.store.disk.sync_dir(&dir))
            .map_err(|source| FlushError::new(path, source))?;
        self.segment.take_unsynced();
        self.segment.seal();
        if let Some(index) = self.segment.index_in_memory()
            && let Err(error) = index.save(&*self.store.disk, &self.store.dir, key)
        {
            tracing::debug!(%error, ?key, "the index was not saved");
        }
        self.segment.drop_index();
        self.finished = true;
        Ok(Some(Arc::clone(&self.segment)))
    }

    fn write(&mut self) -> Result<(), CompactError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = || self.segment.key.segment_path(&self.store.dir);
        let is_new = self.open.is_none();
        let open = match &self.open {
            Some(open) => Arc::clone(open),
            None => {
                let file = self.store.disk.create(&path());
                let file = file.map_err(|source| FlushError::new(path(), source))?;
                let open = self.store.files.insert(&self.segment, file);
                Arc::clone(self.open.insert(open))
            }
        };
        let position = self.segment.info().bytes;
        let head = encode_segment_header(&self.segment.key);
        let frames = Frames::at(position, &self.pending);
        let mut slices = Vec::with_capacity(1 + 3 * self.pending.len());
        let mut from = position;
        if is_new {
            slices.push(IoSlice::new(&head));
            from = 0;
        }
        slices.extend(frames.slices());
        let written = open.file.write_at(&mut slices, from);
        written.map_err(|source| FlushError::new(path(), source))?;
        let headers = self.pending.iter().map(Batch::header);
        self.segment.advance(headers, self.index_interval, &open);
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.store.remove_files(&self.segment);
        }
    }
}
