//! Reading all batches of a segment in order, in large pieces.

use std::path::Path;

use bytes::Bytes;
use flumen_protocol::batch::Batch;

use super::{
    frame::{FRAME_LEN, FrameError, decode_batch, decode_front, frame_bytes},
    open_files::OpenSegment,
    read::ReadError,
    segment::Segment,
};

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// A walk through a segment, bodies included.
pub(super) struct Scan<'a> {
    segment: &'a Segment,
    dir: &'a Path,
    open: &'a OpenSegment,
    position: u64,
    end: u64,
    chunk: Bytes,
}

impl<'a> Scan<'a> {
    pub(super) fn new(segment: &'a Segment, dir: &'a Path, open: &'a OpenSegment) -> Self {
        Self {
            segment,
            dir,
            open,
            position: segment.first().position,
            end: segment.info().bytes,
            chunk: Bytes::new(),
        }
    }

    /// The next batch. `None` at the end of the segment.
    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.require(FRAME_LEN as u64)?;
        let header = decode_front(&self.chunk, self.position).map_err(|e| self.damaged(e))?;
        let len = frame_bytes(&header, self.position);
        self.require(len)?;
        let frame = self.chunk.split_to(len as usize);
        let batch = decode_batch(&frame, self.position).map_err(|e| self.damaged(e))?;
        self.position += len;
        Ok(Some(batch))
    }

    /// Makes the chunk hold `len` bytes from the position on.
    fn require(&mut self, len: u64) -> Result<(), ReadError> {
        if self.chunk.len() as u64 >= len {
            return Ok(());
        }
        let left = self.end - self.position;
        if len > left {
            return Err(self.damaged(FrameError::BehindEnd { len, left }));
        }
        let wanted = left.min(len.max(CHUNK_BYTES)) as usize;
        let mut chunk = Vec::with_capacity(wanted);
        self.open
            .file
            .read_onto(&mut chunk, wanted, self.position)
            .map_err(|source| {
                ReadError::io(
                    self.segment.key.segment_path(self.dir),
                    self.position,
                    source,
                )
            })?;
        if (chunk.len() as u64) < len {
            let missing = left - chunk.len() as u64;
            return Err(self.damaged(FrameError::FileShort { missing }));
        }
        self.chunk = chunk.into();
        Ok(())
    }

    fn damaged(&self, source: FrameError) -> ReadError {
        ReadError::damaged(
            self.segment.key.segment_path(self.dir),
            self.position,
            source,
        )
    }
}
