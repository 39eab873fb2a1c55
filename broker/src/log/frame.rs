//! How batches lie in a segment file.
//!
//! ```text
//! segment: | header (40 bytes) | frame | frame | ...
//! frame:   | CRC-32C (4) | batch header (88) | padding | batch body |
//! ```
//!
//! Large bodies begin at a whole block of the file, behind zeros that nobody reads: so they go to
//! the disk from where they are in memory, past the page cache. Small ones have no padding. How
//! much there is follows from the header and the frame's position.
//!
//! A batch's own CRC leaves out its place (base offset and append time), which the broker writes
//! in. The CRC of the frame covers the whole batch header together with the frame's position in
//! the file. So a walk from header to header can trust each length without reading the bodies,
//! and after damage the next frame can be found again, byte by byte.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use flumen_protocol::{
    batch::{Batch, BatchError, BatchHeader, HEADER_LEN},
    ids::Offset,
};

use super::names::SegmentKey;
use crate::disk::BLOCK_BYTES;

/// Bytes in front of each batch.
pub(super) const FRAME_CRC_LEN: usize = 4;

/// Bytes of a frame before the batch's body.
pub(super) const FRAME_LEN: usize = FRAME_CRC_LEN + HEADER_LEN;

/// Bodies of at least this size begin at a whole block.
const ALIGNED_BODY_BYTES_MIN: u32 = 64 * 1024;

/// What padding is made of.
static PADDING: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Bytes of a segment file before its first frame.
pub(super) const SEGMENT_HEADER_LEN: usize = 40;

/// What every segment file begins with; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"flumens\x02";

/// Why the bytes at a position are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The batch header is not the one that was written there.
    #[error(
        "the batch header there is damaged: its CRC-32C is {computed:08x} but {stored:08x} was stored"
    )]
    HeaderDamaged {
        /// The checksum of the bytes.
        computed: u32,
        /// The checksum in front of them.
        stored: u32,
    },
    /// The batch is damaged.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// The batch would reach behind the end of the segment.
    #[error("the batch there has {len} bytes but the segment ends after {left}")]
    BehindEnd {
        /// Bytes of the frame.
        len: u64,
        /// Bytes left in the segment.
        left: u64,
    },
    /// The file is shorter than the segment.
    #[error("the file ends there, {missing} bytes early")]
    FileShort {
        /// Bytes that should follow.
        missing: u64,
    },
    /// The offsets do not rise.
    #[error("the batch there begins at offset {found} where one from {expected} on belongs")]
    OutOfOrder {
        /// The base offset found.
        found: Offset,
        /// The lowest one possible.
        expected: Offset,
    },
    /// The file does not begin as this segment does.
    #[error("the file does not begin as that segment does")]
    ForeignFile,
}

/// Bytes that a batch takes in a segment if its frame begins at `position`.
pub(super) fn frame_bytes(header: &BatchHeader, position: u64) -> u64 {
    (FRAME_LEN + padding_bytes(header, position)) as u64 + u64::from(header.body_len)
}

/// Bytes between the front of a frame at `position` and its body.
fn padding_bytes(header: &BatchHeader, position: u64) -> usize {
    if header.body_len < ALIGNED_BODY_BYTES_MIN {
        return 0;
    }
    let front_end = position + FRAME_LEN as u64;
    (front_end.next_multiple_of(BLOCK_BYTES as u64) - front_end) as usize
}

/// Batches as the frames that they become from a position on.
pub(super) struct Frames<'a> {
    batches: &'a [Batch],
    fronts: Vec<Front>,
}

struct Front {
    bytes: [u8; FRAME_LEN],
    padding: usize,
}

impl<'a> Frames<'a> {
    pub(super) fn at(mut position: u64, batches: &'a [Batch]) -> Self {
        let front = |batch: &Batch| {
            let header = batch.header();
            let front = Front {
                bytes: encode_front(header, position),
                padding: padding_bytes(header, position),
            };
            position += frame_bytes(header, position);
            front
        };
        let fronts = batches.iter().map(front).collect();
        Self { batches, fronts }
    }

    /// Everything in order; nothing is copied.
    pub(super) fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let frames = self.fronts.iter().zip(self.batches);
        frames.flat_map(|(front, batch)| {
            [&front.bytes, &PADDING[..front.padding], batch.body()].map(IoSlice::new)
        })
    }
}

fn encode_front(header: &BatchHeader, position: u64) -> [u8; FRAME_LEN] {
    let mut out = [0; FRAME_LEN];
    out[FRAME_CRC_LEN..].copy_from_slice(&header.encode());
    let crc = front_crc(&out[FRAME_CRC_LEN..], position);
    out[..FRAME_CRC_LEN].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads and checks the front of a frame, of which at least [`FRAME_LEN`] bytes are given.
pub(super) fn decode_front(bytes: &[u8], position: u64) -> Result<BatchHeader, FrameError> {
    let mut from = bytes;
    let stored = from.get_u32_le();
    let computed = front_crc(&from[..HEADER_LEN], position);
    if stored != computed {
        return Err(FrameError::HeaderDamaged { computed, stored });
    }
    Ok(BatchHeader::decode(from)?)
}

/// Takes a whole frame from `position`, whose front was checked, as a batch and checks its body.
pub(super) fn decode_batch(frame: &Bytes, position: u64) -> Result<Batch, FrameError> {
    let header = BatchHeader::decode(&frame[FRAME_CRC_LEN..])?;
    let body = frame.slice(FRAME_LEN + padding_bytes(&header, position)..);
    Ok(Batch::from_parts(header, body)?)
}

/// Decodes a frame with the checksum that its front should have; tells the bytes of its batch.
pub(crate) fn decode_for_fuzzing(bytes: &[u8]) -> Option<usize> {
    let position = SEGMENT_HEADER_LEN as u64;
    let mut frame = bytes.get(..FRAME_LEN)?.to_vec();
    frame.extend_from_slice(&bytes[FRAME_LEN..]);
    let crc = front_crc(&frame[FRAME_CRC_LEN..FRAME_LEN], position);
    frame[..FRAME_CRC_LEN].copy_from_slice(&crc.to_le_bytes());
    let header = decode_front(&frame, position).ok()?;
    let len = usize::try_from(frame_bytes(&header, position)).ok()?;
    let frame = Bytes::from(frame.get(..len)?.to_vec());
    let batch = decode_batch(&frame, position).ok()?;
    Some(batch.encoded_len())
}

fn front_crc(header: &[u8], position: u64) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&position.to_le_bytes());
    digest.update(header);
    digest.finalize() as u32
}

/// What a segment's file begins with.
pub(super) fn encode_segment_header(key: &SegmentKey) -> [u8; SEGMENT_HEADER_LEN] {
    let mut out = [0; SEGMENT_HEADER_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&key.partition.topic.0.to_le_bytes());
    out[16..20].copy_from_slice(&key.partition.index.to_le_bytes());
    out[20..24].copy_from_slice(&key.generation.to_le_bytes());
    out[24..32].copy_from_slice(&key.base_offset.0.to_le_bytes());
    let crc = front_crc(&out[..32], 0);
    out[32..36].copy_from_slice(&crc.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use flumen_protocol::batch::{BatchBuilder, Codec, RecordRef};

    use super::*;

    fn frame(position: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(&RecordRef::new(5, b"value")).unwrap();
        let batch = builder.build(Codec::None).unwrap().placed(Offset(7), 9);
        let mut bytes = encode_front(batch.header(), position).to_vec();
        bytes.extend_from_slice(batch.body());
        bytes
    }

    #[test]
    fn each_flipped_bit_of_a_frame_is_seen_its_place_included() {
        let good = frame(40);
        assert!(decode_front(&good, 40).is_ok());
        assert!(decode_batch(&good.clone().into(), 40).is_ok());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let read = decode_front(&bytes, 40).and_then(|_| decode_batch(&bytes.into(), 40));
                assert!(read.is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_at_another_position_is_none() {
        assert!(decode_front(&frame(40), 41).is_err());
    }
}
