//! Reading a segment: from record to record, or in search of any.

use super::{
    OpenError,
    record::{DecodeError, RECORD_HEADER_BYTES, RecordHeader, TAG_OFFSET, decode},
    recovery::io_error,
    segment::{Position, Segment},
};

/// How much of a file is in memory at a time; records that are larger take what they need.
const WINDOW_BYTES: usize = 1 << 20;

/// A part of a file in memory, which moves forward.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    bytes: Vec<u8>,
    /// The offset in the file of the first of `bytes`.
    start: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self {
            segment,
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// The record at `offset`; the outer error is the disk's.
    pub(super) fn record(
        &mut self,
        offset: u64,
    ) -> Result<Result<(RecordHeader, &[u8]), DecodeError>, OpenError> {
        let tag = self.segment.tag;
        let bytes = self.get(offset, RECORD_HEADER_BYTES)?;
        if bytes.len() < RECORD_HEADER_BYTES {
            return Ok(Err(DecodeError::TooLong));
        }
        let payload_bytes = match RecordHeader::payload_bytes_in(bytes, tag, offset) {
            Ok(payload_bytes) => payload_bytes,
            Err(error) => return Ok(Err(error)),
        };
        let len = RECORD_HEADER_BYTES as u64 + u64::from(payload_bytes);
        if offset + len > self.segment.len {
            return Ok(Err(DecodeError::TooLong));
        }
        let bytes = self.get(offset, len as usize)?;
        Ok(decode(bytes, tag, offset))
    }

    /// `count` bytes at `offset`; fewer only at the end of the segment.
    fn get(&mut self, offset: u64, count: usize) -> Result<&[u8], OpenError> {
        let have = self.start + self.bytes.len() as u64;
        let want = (offset + count as u64).min(self.segment.len);
        if offset < self.start || want > have {
            let kept = self
                .bytes
                .len()
                .saturating_sub((offset - self.start) as usize);
            let from = self.bytes.len() - kept;
            self.bytes.copy_within(from.., 0);
            self.bytes.truncate(kept);
            self.start = offset;
            let at = offset + kept as u64;
            let more = (self.segment.len - at).min(WINDOW_BYTES.max(count - kept) as u64);
            self.segment
                .file
                .read_onto(&mut self.bytes, more as usize, at)
                .map_err(io_error("read", &self.segment.path))?;
        }
        let from = (offset - self.start) as usize;
        let to = self.bytes.len().min(from + count);
        Ok(&self.bytes[from..to])
    }
}

/// Looks for records behind the place where the log seems to end, by the segment's tag.
pub(super) fn search_remains(segment: &Segment, start: u64) -> Result<Remains, OpenError> {
    let mut remains = Remains::default();
    let pattern = segment.tag.to_le_bytes();
    let mut window = Vec::new();
    let mut at = start;
    while at < segment.len {
        window.clear();
        let count = (segment.len - at).min(WINDOW_BYTES as u64) as usize;
        segment
            .file
            .read_onto(&mut window, count, at)
            .map_err(io_error("read", &segment.path))?;
        let (words, _) = window.as_chunks::<8>();
        for (number, _) in words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word == pattern)
        {
            let tag_at = at + 8 * number as u64;
            remains.end = Some(tag_at + 8);
            let Some(offset) = tag_at
                .checked_sub(TAG_OFFSET as u64)
                .filter(|at| *at >= start)
            else {
                continue;
            };
            // One of an unknown kind says that, too.
            let (Ok((RecordHeader { durable, .. }, _)) | Err(DecodeError::Kind { durable, .. })) =
                Window::new(segment).record(offset)?
            else {
                continue;
            };
            if remains.witness.is_none_or(|(before, _)| before < durable) {
                remains.witness = Some((durable, offset));
            }
        }
        at += count as u64;
    }
    Ok(remains)
}

/// What is left in a segment behind the place where its records end.
#[derive(Default)]
pub(super) struct Remains {
    /// The end of the last thing that looks like a record.
    pub(super) end: Option<u64>,
    /// The record that says most about what had been durable, and where it stands.
    pub(super) witness: Option<(Position, u64)>,
}
