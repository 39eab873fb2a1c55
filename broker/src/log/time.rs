//! Finding an offset by time.

use std::sync::Arc;

use flumen_protocol::{batch::Batch, ids::Offset};

use super::{
    LogReader,
    frame::{FrameError, decode_batch, frame_bytes},
    read::ReadError,
    segment::{Segment, SegmentInfo},
    walk::Walk,
};

/// Where a record of that time may be.
enum Candidate {
    Segment(Arc<Segment>),
    Recent(Batch),
}

impl LogReader {
    /// The offset of the first record with a timestamp of at least `timestamp_ms`. `None` if
    /// there is none yet. Timestamps are the producers' and need not rise. Blocks: not for an
    /// async worker thread.
    ///
    /// # Errors
    /// When a segment that may hold the record cannot be read.
    pub fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<Offset>, ReadError> {
        // No record before this offset is late enough.
        let mut from = Offset(0);
        while let Some(candidate) = self.candidate(&mut from, timestamp_ms) {
            match candidate {
                Candidate::Segment(segment) => {
                    let info = segment.info();
                    match self.search(&segment, info, from, timestamp_ms) {
                        Ok(Some(offset)) => return Ok(Some(offset)),
                        Ok(None) => from = from.max(info.end_offset),
                        // It was removed or replaced meanwhile: look again.
                        Err(ReadError::Io { .. }) if segment.is_removed() => {}
                        Err(error) => {
                            self.log.note_damage(&error);
                            return Err(error);
                        }
                    }
                }
                Candidate::Recent(batch) => {
                    // It was checked when it came in.
                    if let Ok(Some(offset)) = first_in(&batch, from, timestamp_ms) {
                        return Ok(Some(offset));
                    }
                    from = batch.end_offset();
                }
            }
        }
        Ok(None)
    }

    /// The first segment or recent batch behind `from` whose largest timestamp is late enough.
    fn candidate(&self, from: &mut Offset, timestamp_ms: i64) -> Option<Candidate> {
        let state = self.log.state.lock();
        *from = state.start.max(*from);
        if *from < state.tail.from() {
            let mut segments = state.segments.iter().map(|s| (s, s.info()));
            let found = segments
                .find(|(_, info)| info.end_offset > *from && info.max_timestamp_ms >= timestamp_ms);
            if let Some((segment, _)) = found {
                return Some(Candidate::Segment(Arc::clone(segment)));
            }
        }
        let mut recent = state.tail.iter_from(*from);
        let found = recent.find(|batch| batch.header().max_timestamp_ms >= timestamp_ms);
        found.cloned().map(Candidate::Recent)
    }

    fn search(
        &self,
        segment: &Segment,
        info: SegmentInfo,
        from: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<Offset>, ReadError> {
        let store = &self.log.store;
        let open = store.files.get(segment)?;
        let entry = open.floor_by_time(&store.files, segment, timestamp_ms)?;
        let mut walk = Walk::new(segment, &store.dir, &*open.file, info).starting_at(entry);
        while let Some(step) = walk.step()? {
            if step.end_offset() <= from || step.header.max_timestamp_ms < timestamp_ms {
                continue;
            }
            let len = frame_bytes(&step.header, step.position) as usize;
            let path = || segment.key.segment_path(&store.dir);
            let mut frame = Vec::with_capacity(len);
            open.file
                .read_onto(&mut frame, len, step.position)
                .map_err(|source| ReadError::io(path(), step.position, source))?;
            let missing = (len - frame.len()) as u64;
            let found = if missing > 0 {
                Err(FrameError::FileShort { missing })
            } else {
                decode_batch(&frame.into(), step.position)
                    .and_then(|batch| first_in(&batch, from, timestamp_ms))
            };
            match found {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(source) => return Err(ReadError::damaged(path(), step.position, source)),
            }
        }
        Ok(None)
    }
}

/// The first record of a batch from `from` on that is late enough.
fn first_in(batch: &Batch, from: Offset, timestamp_ms: i64) -> Result<Option<Offset>, FrameError> {
    let columns = batch.columns()?;
    let found = (0..columns.len()).find(|&index| {
        columns.offset(index) >= from && columns.timestamp_ms(index) >= timestamp_ms
    });
    Ok(found.map(|index| columns.offset(index)))
}
