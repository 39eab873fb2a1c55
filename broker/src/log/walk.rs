//! A walk from batch header to batch header through a segment, without reading the bodies.

use std::path::Path;

use flumen_protocol::{batch::BatchHeader, ids::Offset};

use super::{
    frame::{FRAME_LEN, FrameError, decode_front, frame_bytes},
    index::{IndexBuilder, IndexEntry, SparseIndex},
    read::ReadError,
    segment::{Segment, SegmentInfo},
};
use crate::disk::File;

/// Bytes read at a time: some headers of small batches, little waste between large ones.
const WINDOW_BYTES: usize = 32 * 1024;

/// A position in a segment that moves from batch to batch.
pub(super) struct Walk<'a> {
    segment: &'a Segment,
    dir: &'a Path,
    file: &'a dyn File,
    end: u64,
    position: u64,
    next_offset: Offset,
    window: Vec<u8>,
    window_at: u64,
}

/// A batch that the walk came by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Where its frame begins.
    pub(super) position: u64,
    /// Its header.
    pub(super) header: BatchHeader,
}

impl Step {
    /// The offset after the batch.
    pub(super) fn end_offset(&self) -> Offset {
        self.header.base_offset.plus(self.header.offset_span.into())
    }
}

impl<'a> Walk<'a> {
    /// From the first batch on.
    pub(super) fn new(
        segment: &'a Segment,
        dir: &'a Path,
        file: &'a dyn File,
        info: SegmentInfo,
    ) -> Self {
        let first = segment.first();
        Self {
            segment,
            dir,
            file,
            end: info.bytes,
            position: first.position,
            next_offset: first.offset,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// From a known batch on.
    #[must_use]
    pub(super) fn starting_at(mut self, entry: IndexEntry) -> Self {
        self.position = entry.position;
        self.next_offset = entry.offset;
        self
    }

    /// Where the next batch begins, or the segment ends.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch. `None` at the end of the segment.
    pub(super) fn step(&mut self) -> Result<Option<Step>, ReadError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let header = self.header_at(position)?;
        let step = Step { position, header };
        self.position += frame_bytes(&header, position);
        self.next_offset = step.end_offset();
        Ok(Some(step))
    }

    /// After damage: moves to the next batch that is whole. False if there is none.
    ///
    /// The frame's CRC covers its position, so what passes for one by chance is one in four
    /// billion, and must also have an offset that fits.
    pub(super) fn skip_damage(&mut self) -> Result<bool, ReadError> {
        let mut position = self.position + 1;
        while position + FRAME_LEN as u64 <= self.end {
            match self.header_at(position) {
                Ok(_) => {
                    self.position = position;
                    return Ok(true);
                }
                Err(ReadError::Damaged {
                    source: FrameError::FileShort { .. },
                    ..
                }) => return Ok(false),
                Err(ReadError::Damaged { .. }) => position += 1,
                Err(other) => return Err(other),
            }
        }
        Ok(false)
    }

    /// Walks to the end and builds the index; damage is left out.
    pub(super) fn build_index(mut self, interval: u64) -> Result<SparseIndex, ReadError> {
        let mut index = IndexBuilder::starting_at(self.position, i64::MIN);
        loop {
            match self.step() {
                Ok(Some(step)) => index.push(&step.header, interval),
                Ok(None) => break,
                Err(error @ ReadError::Damaged { .. }) => {
                    tracing::error!(%error, "a damaged batch is left out of the index");
                    if !self.skip_damage()? {
                        index.skip_to(self.end);
                        break;
                    }
                    index.skip_to(self.position);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(index.finish())
    }

    fn header_at(&mut self, position: u64) -> Result<BatchHeader, ReadError> {
        let left = self.end - position;
        if left < FRAME_LEN as u64 {
            let len = FRAME_LEN as u64;
            return Err(self.damaged(position, FrameError::BehindEnd { len, left }));
        }
        self.fill_window(position)?;
        let start = (position - self.window_at) as usize;
        let header = decode_front(&self.window[start..], position)
            .map_err(|source| self.damaged(position, source))?;
        let len = frame_bytes(&header, position);
        if len > left {
            return Err(self.damaged(position, FrameError::BehindEnd { len, left }));
        }
        if header.base_offset < self.next_offset {
            let source = FrameError::OutOfOrder {
                found: header.base_offset,
                expected: self.next_offset,
            };
            return Err(self.damaged(position, source));
        }
        Ok(header)
    }

    /// Makes the window hold a frame's front at `position`.
    fn fill_window(&mut self, position: u64) -> Result<(), ReadError> {
        let window_end = self.window_at + self.window.len() as u64;
        let frame_end = position + FRAME_LEN as u64;
        if position >= self.window_at && frame_end <= window_end {
            return Ok(());
        }
        self.window.clear();
        self.window_at = position;
        let len = (self.end - position).min(WINDOW_BYTES as u64);
        self.file
            .read_onto(&mut self.window, len as usize, position)
            .map_err(|source| {
                ReadError::io(self.segment.key.segment_path(self.dir), position, source)
            })?;
        if self.window.len() < FRAME_LEN {
            let missing = self.end - position - self.window.len() as u64;
            return Err(self.damaged(position, FrameError::FileShort { missing }));
        }
        Ok(())
    }

    fn damaged(&self, position: u64, source: FrameError) -> ReadError {
        ReadError::damaged(self.segment.key.segment_path(self.dir), position, source)
    }
}
