//! The sparse index of a segment: where in the file to begin looking for an offset or a time.
//!
//! It can always be rebuilt from the segment, by a walk from header to header. So it is written
//! without a sync when its segment is sealed, checked when it is read, and replaced when it is
//! missing or damaged.

use std::path::Path;

use bytes::Buf;
use flumen_protocol::{batch::BatchHeader, ids::Offset};

use super::{
    frame::{SEGMENT_HEADER_LEN, frame_bytes},
    names::SegmentKey,
};
use crate::disk::{Disk, read_file};

/// What every index file begins with; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"flumeni\x01";

/// Bytes of an index file besides its entries: magic, base offset, segment bytes, count, CRC.
const FIXED_LEN: usize = 8 + 8 + 8 + 4 + 4;

/// Bytes of an entry.
const ENTRY_LEN: usize = 24;

/// Bytes of an index file, at most; more is no index.
const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One batch whose place is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The batch's base offset.
    pub(super) offset: Offset,
    /// Where its frame begins.
    pub(super) position: u64,
    /// The largest timestamp of all batches before it.
    pub(super) max_before_ms: i64,
}

/// The entries of a segment, or of its front part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    /// Bytes of the segment that the entries describe.
    pub(super) covers_bytes: u64,
    /// By rising offset, position and time.
    pub(super) entries: Vec<IndexEntry>,
}

impl IndexEntry {
    /// Stands for the first batch of a segment, which needs no entry.
    pub(super) fn first(base_offset: Offset) -> Self {
        Self {
            offset: base_offset,
            position: SEGMENT_HEADER_LEN as u64,
            max_before_ms: i64::MIN,
        }
    }
}

/// Where to begin looking for the batch that holds `offset`.
pub(super) fn floor(entries: &[IndexEntry], offset: Offset) -> Option<IndexEntry> {
    let after = entries.partition_point(|entry| entry.offset <= offset);
    after.checked_sub(1).map(|at| entries[at])
}

/// Where to begin looking for the first batch with a timestamp of at least `timestamp_ms`.
pub(super) fn floor_by_time(entries: &[IndexEntry], timestamp_ms: i64) -> Option<IndexEntry> {
    let after = entries.partition_point(|entry| entry.max_before_ms < timestamp_ms);
    after.checked_sub(1).map(|at| entries[at])
}

/// Collects entries while batches are written or walked over.
#[derive(Clone, Debug)]
pub(super) struct IndexBuilder {
    pub(super) entries: Vec<IndexEntry>,
    /// Where the next batch begins.
    position: u64,
    /// Where the last entry points to, or the first batch begins; 0 asks for an entry at once.
    last_entry: u64,
    max_timestamp_ms: i64,
    /// Whether it began with the segment.
    whole: bool,
}

impl IndexBuilder {
    /// Begins behind `position` bytes whose largest timestamp is `max_timestamp_ms`.
    pub(super) fn starting_at(position: u64, max_timestamp_ms: i64) -> Self {
        // What was there before has no entries here, so the first batch from now on gets one.
        let is_start = position <= SEGMENT_HEADER_LEN as u64;
        Self {
            entries: Vec::new(),
            position,
            last_entry: if is_start { position } else { 0 },
            max_timestamp_ms,
            whole: is_start,
        }
    }

    /// Whether all batches of the segment passed here.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes note of the next batch.
    pub(super) fn push(&mut self, header: &BatchHeader, interval: u64) {
        if self.last_entry == 0 || self.position - self.last_entry >= interval {
            self.entries.push(IndexEntry {
                offset: header.base_offset,
                position: self.position,
                max_before_ms: self.max_timestamp_ms,
            });
            self.last_entry = self.position;
        }
        self.position += frame_bytes(header, self.position);
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
    }

    /// Takes note of a gap: what lies between could not be read, so the batch at `position`
    /// gets an entry of its own.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
        // A damaged batch may have held any timestamp: lookups by time must not pass it over.
        self.max_timestamp_ms = i64::MAX;
        self.last_entry = 0;
    }

    pub(super) fn finish(self) -> SparseIndex {
        SparseIndex {
            covers_bytes: self.position,
            entries: self.entries,
        }
    }
}

impl SparseIndex {
    /// Writes the index beside its segment. No sync: it can be rebuilt.
    pub(super) fn save(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        key: &SegmentKey,
    ) -> std::io::Result<()> {
        let path = key.index_path(dir);
        let written = disk
            .create(&path)
            .and_then(|file| file.write_all_at(&self.encode(key.base_offset), 0));
        if written.is_err() {
            // A part of an index is of no use, and a full disk can use the room.
            drop(disk.remove_file(&path));
        }
        written
    }

    /// Reads the index beside a segment of `bytes`. `None` if it is not there, damaged or of
    /// another state of the segment.
    pub(super) fn load(disk: &dyn Disk, dir: &Path, key: &SegmentKey, bytes: u64) -> Option<Self> {
        let file = read_file(disk, &key.index_path(dir), FILE_BYTES_MAX).ok()??;
        Self::decode(&file, key.base_offset).filter(|index| index.covers_bytes == bytes)
    }

    /// Decodes `content` with the checksum that it should have, and checks that what comes out
    /// encodes to the same; tells whether it is an index.
    pub(crate) fn decode_for_fuzzing(content: &[u8]) -> bool {
        let mut bytes = content.to_vec();
        bytes.extend_from_slice(&crc32c(content).to_le_bytes());
        let index = Self::decode(&bytes, Offset(0));
        index.is_some_and(|index| index.encode(Offset(0)) == bytes)
    }

    fn encode(&self, base_offset: Offset) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_LEN + self.entries.len() * ENTRY_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&base_offset.0.to_le_bytes());
        out.extend_from_slice(&self.covers_bytes.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.0.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_before_ms.to_le_bytes());
        }
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], base_offset: Offset) -> Option<Self> {
        let (content, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if content.len() < FIXED_LEN - 4 || crc32c(content) != crc.get_u32_le() {
            return None;
        }
        let (magic, mut from) = content.split_at(MAGIC.len());
        if magic != MAGIC || from.get_u64_le() != base_offset.0 {
            return None;
        }
        let covers_bytes = from.get_u64_le();
        let count = from.get_u32_le() as usize;
        if from.len() != count * ENTRY_LEN {
            return None;
        }
        let entries = (0..count)
            .map(|_| IndexEntry {
                offset: Offset(from.get_u64_le()),
                position: from.get_u64_le(),
                max_before_ms: from.get_i64_le(),
            })
            .collect();
        Some(Self {
            covers_bytes,
            entries,
        })
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SparseIndex {
        let entry = |n: u64| IndexEntry {
            offset: Offset(n * 10),
            position: n * 100,
            max_before_ms: n as i64 * 5,
        };
        SparseIndex {
            covers_bytes: 1000,
            entries: (1..=4).map(entry).collect(),
        }
    }

    #[test]
    fn the_floor_is_the_last_entry_not_behind_what_is_sought() {
        let entries = sample().entries;
        let at = |offset| floor(&entries, Offset(offset)).map(|entry| entry.position);
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some(100));
        assert_eq!(at(19), Some(100));
        assert_eq!(at(20), Some(200));
        assert_eq!(at(1000), Some(400));
        let at = |ms| floor_by_time(&entries, ms).map(|entry| entry.position);
        assert_eq!(at(5), None);
        assert_eq!(at(6), Some(100));
        assert_eq!(at(21), Some(400));
    }

    #[test]
    fn an_index_file_with_any_byte_changed_or_missing_is_none() {
        let index = sample();
        let good = index.encode(Offset(3));
        assert_eq!(SparseIndex::decode(&good, Offset(3)), Some(index));
        assert_eq!(SparseIndex::decode(&good, Offset(4)), None);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert_eq!(SparseIndex::decode(&bytes, Offset(3)), None, "byte {at}");
            assert_eq!(
                SparseIndex::decode(&good[..at], Offset(3)),
                None,
                "{at} bytes"
            );
        }
    }
}
