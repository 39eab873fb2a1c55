//! One record of the WAL, as bytes.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | CRC-32C (Castagnoli, RFC 3720) of all that follows, without the padding |
//! | 4..8 | length of the payload |
//! | 8..16 | tag of the segment: drawn at random each time a file is taken into use, so that neither what the file held before nor bytes that a client made up pass for a record |
//! | 16..24 | durable: the position up to which the WAL was known to be synced when this was written |
//! | 24..32 | term |
//! | 32..40 | index |
//! | 40..44 | shard |
//! | 44..48 | offset of the record in its segment |
//! | 48 | kind |
//! | 49..56 | zero |
//! | 56.. | payload, then zeros up to a multiple of 8 |
//!
//! All numbers are little-endian.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};
use flumen_protocol::ids::ShardId;

use super::segment::Position;

/// The bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 56;
/// Records begin at multiples of this.
pub(super) const RECORD_ALIGNMENT: usize = 8;
/// Where the tag stands in a record; a multiple of the alignment, which the search for records
/// behind a damaged one relies on.
pub(super) const TAG_OFFSET: usize = 8;
/// Payloads up to this size are copied behind their header, larger ones are written from where
/// they are: below, a copy is cheaper than one more slice to the kernel.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    /// An entry of a shard's log.
    Entry = 1,
    /// A vote of a shard.
    Vote = 2,
    /// The commit point of a shard. Known, and needed by nobody: it is passed over.
    Committed = 3,
    /// Entries after `index` are void; all of them, if `term` is 0.
    Truncate = 4,
    /// Entries up to `term`, `index` are no longer needed.
    Purge = 5,
    /// The whole state of a shard, at the beginning of a segment.
    State = 6,
    /// The end of the states at the beginning of a segment.
    OpeningEnd = 7,
    /// The log goes on in the next segment.
    Seal = 8,
    /// The log of a shard is as new, but for its vote.
    Reset = 9,
    /// An entry of a shard's log that is there already, written again: from now on it is here.
    Moved = 10,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::State,
            7 => Self::OpeningEnd,
            8 => Self::Seal,
            9 => Self::Reset,
            10 => Self::Moved,
            _ => return None,
        })
    }
}

/// All of a record but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    pub(super) shard: ShardId,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) tag: u64,
    pub(super) durable: Position,
    pub(super) offset: u32,
    pub(super) payload_bytes: u32,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("there is no record")]
    Zeros,
    #[error("the record belongs to an earlier use of the file")]
    Stale,
    #[error("the record runs past the end of the file")]
    TooLong,
    #[error("the checksum does not match")]
    Checksum,
    #[error("the record was written for another place in the file")]
    Misplaced,
    /// Nothing is wrong with it, but for that.
    #[error("the kind {kind} of the record is unknown")]
    Kind { kind: u8, durable: Position },
}

/// The size of a record in the file.
pub(super) const fn record_bytes(payload_bytes: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(RECORD_ALIGNMENT as u64)
}

impl RecordHeader {
    /// All fields but the checksum, which covers the payload too.
    fn to_bytes(self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.tag.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.term.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.index.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.offset.to_le_bytes());
        bytes[48] = self.kind as u8;
        bytes
    }

    /// How much payload follows a header, if it is one by its tag. The checksum is not looked at.
    ///
    /// # Panics
    /// If `bytes` is shorter than a header.
    pub(super) fn payload_bytes_in(
        bytes: &[u8],
        tag: u64,
        offset: u64,
    ) -> Result<u32, DecodeError> {
        let header = &bytes[..RECORD_HEADER_BYTES];
        let found = u64_at(header, TAG_OFFSET);
        if found != tag {
            let empty = header.iter().all(|byte| *byte == 0);
            return Err(if empty {
                DecodeError::Zeros
            } else {
                DecodeError::Stale
            });
        }
        if u64::from(u32_at(header, 44)) != offset {
            return Err(DecodeError::Misplaced);
        }
        Ok(u32_at(header, 4))
    }

    /// Reads the header of a record whose checksum is right.
    fn from_bytes(header: &[u8]) -> Result<Self, DecodeError> {
        let (kind, durable) = (header[48], Position(u64_at(header, 16)));
        Ok(Self {
            kind: RecordKind::from_byte(kind).ok_or(DecodeError::Kind { kind, durable })?,
            shard: ShardId(u32_at(header, 40)),
            term: u64_at(header, 24),
            index: u64_at(header, 32),
            tag: u64_at(header, TAG_OFFSET),
            durable,
            offset: u32_at(header, 44),
            payload_bytes: u32_at(header, 4),
        })
    }
}

/// Reads the record that `bytes` begins with, which stands at `offset` of a segment with `tag`.
pub(super) fn decode(
    bytes: &[u8],
    tag: u64,
    offset: u64,
) -> Result<(RecordHeader, &[u8]), DecodeError> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(DecodeError::TooLong);
    }
    let payload_bytes = RecordHeader::payload_bytes_in(bytes, tag, offset)?;
    let end = RECORD_HEADER_BYTES + payload_bytes as usize;
    let record = bytes.get(..end).ok_or(DecodeError::TooLong)?;
    if crc32_iscsi(&record[4..]) != u32_at(record, 0) {
        return Err(DecodeError::Checksum);
    }
    let header = RecordHeader::from_bytes(record)?;
    Ok((header, &record[RECORD_HEADER_BYTES..]))
}

/// Decodes a record from any bytes, for fuzzing: whatever they are, it must neither panic nor
/// allocate. Returns the length of the payload.
#[doc(hidden)]
pub fn decode_record_for_fuzzing(bytes: &[u8]) -> Option<usize> {
    let tag = bytes.get(TAG_OFFSET..TAG_OFFSET + 8)?;
    let offset = bytes.get(44..48)?;
    decode(bytes, u64_at(tag, 0), u32_at(offset, 0).into())
        .ok()
        .map(|(_, payload)| payload.len())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Records on their way to the disk: small ones side by side in one buffer, large payloads where
/// they are.
#[derive(Default)]
pub(super) struct RecordBuffer {
    scratch: Vec<u8>,
    /// Large payloads, each with the length that `scratch` has before it.
    parts: Vec<(usize, Bytes)>,
    bytes: u64,
    records: usize,
}

impl RecordBuffer {
    /// The size of all in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Adds a record; `header.payload_bytes` must be the length of `parts` together.
    pub(super) fn push(&mut self, header: RecordHeader, parts: &[Bytes]) {
        let payload_bytes = header.payload_bytes as usize;
        let start = self.scratch.len();
        let mut bytes = header.to_bytes();
        if payload_bytes <= COPY_BYTES_MAX {
            self.scratch.extend_from_slice(&bytes);
            for part in parts {
                self.scratch.extend_from_slice(part);
            }
            let crc = crc32_iscsi(&self.scratch[start + 4..]);
            self.scratch[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        } else {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            digest.update(&bytes[4..]);
            for part in parts {
                digest.update(part);
            }
            bytes[..4].copy_from_slice(&(digest.finalize() as u32).to_le_bytes());
            self.scratch.extend_from_slice(&bytes);
            for part in parts {
                self.parts.push((self.scratch.len(), part.clone()));
            }
        }
        let record = record_bytes(payload_bytes as u64);
        let padding = record as usize - RECORD_HEADER_BYTES - payload_bytes;
        self.scratch
            .extend_from_slice(&[0; RECORD_ALIGNMENT][..padding]);
        self.bytes += record;
        self.records += 1;
    }

    /// All of it as slices, in order.
    pub(super) fn slices(&self) -> Vec<std::io::IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.parts.len() + 1);
        let mut start = 0;
        for (end, part) in &self.parts {
            slices.push(std::io::IoSlice::new(&self.scratch[start..*end]));
            slices.push(std::io::IoSlice::new(part));
            start = *end;
        }
        slices.push(std::io::IoSlice::new(&self.scratch[start..]));
        slices
    }

    pub(super) fn clear(&mut self) {
        self.scratch.clear();
        self.parts.clear();
        self.bytes = 0;
        self.records = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(header: RecordHeader, parts: &[Bytes]) -> Vec<u8> {
        let mut buffer = RecordBuffer::default();
        buffer.push(header, parts);
        let bytes: Vec<u8> = buffer
            .slices()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        assert_eq!(bytes.len() as u64, buffer.bytes());
        bytes
    }

    fn header(payload_bytes: usize) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Entry,
            shard: ShardId(7),
            term: 3,
            index: 99,
            tag: 0x1234_5678_9abc_def0,
            durable: Position::new(2, 5000),
            offset: 4096,
            payload_bytes: payload_bytes as u32,
        }
    }

    #[test]
    fn what_is_encoded_decodes_equal_at_every_size() {
        for size in [
            0,
            1,
            7,
            8,
            9,
            100,
            COPY_BYTES_MAX,
            COPY_BYTES_MAX + 1,
            1 << 20,
        ] {
            let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let parts = [
                Bytes::copy_from_slice(&payload[..size / 3]),
                Bytes::new(),
                Bytes::copy_from_slice(&payload[size / 3..]),
            ];
            let header = header(size);
            let bytes = encode(header, &parts);
            assert_eq!(bytes.len() as u64, record_bytes(size as u64));
            let (found, body) = decode(&bytes, header.tag, 4096).unwrap();
            assert_eq!(found, header);
            assert_eq!(body, payload);
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let header = header(20);
        let bytes = encode(header, &[Bytes::from(vec![7; 20])]);
        for bit in 0..(RECORD_HEADER_BYTES + 20) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, header.tag, 4096).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let header = header(20);
        let bytes = encode(header, &[Bytes::from(vec![7; 20])]);
        for len in 0..RECORD_HEADER_BYTES + 20 {
            assert_eq!(
                decode(&bytes[..len], header.tag, 4096),
                Err(DecodeError::TooLong)
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            decode_record_for_fuzzing(&bytes);
        }
    }
}
