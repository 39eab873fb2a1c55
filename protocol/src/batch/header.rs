//! The fixed header of a batch, field by field.

use bytes::Buf;

use super::{BatchError, Codec};
use crate::{
    ids::{Offset, ProducerId},
    limits::{BATCH_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, RECORDS_PER_BATCH_MAX},
};

/// Bytes of an encoded header.
pub const HEADER_LEN: usize = 88;

/// Bytes at the front that the broker writes in place, outside of the CRC.
pub const PLACEMENT_LEN: usize = 16;

/// The format version that this build writes and reads.
pub(super) const VERSION: u8 = 1;

/// Bytes of the front that the CRC does not cover: the placement and the CRC itself.
const CRC_COVERS_FROM: usize = PLACEMENT_LEN + 4;

/// Which columns the body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnFlags(u16);

impl ColumnFlags {
    /// Offset deltas: the offsets of the records are not consecutive (after compaction).
    pub const OFFSETS: Self = Self(1);
    /// Timestamp deltas: not all records carry the base timestamp.
    pub const TIMESTAMPS: Self = Self(2);
    /// Keys.
    pub const KEYS: Self = Self(4);
    /// Key validity: some records have a key and some have none.
    pub const KEY_VALIDITY: Self = Self(8);
    /// Value validity: some records have no value (tombstones).
    pub const VALUE_VALIDITY: Self = Self(16);
    /// Headers.
    pub const HEADERS: Self = Self(32);

    const ALL: u16 = 63;

    /// Whether all columns of `other` are there.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other` if `wanted`.
    #[must_use]
    pub fn with(self, other: Self, wanted: bool) -> Self {
        if wanted { Self(self.0 | other.0) } else { self }
    }
}

/// Who sent a batch, and which of its batches it is; how a broker recognises duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer; [`ProducerId::NONE`] asks for no duplicate detection.
    pub producer_id: ProducerId,
    /// Rises when the producer starts its sequence anew.
    pub epoch: u32,
    /// The number of this batch among the producer's batches to this partition, from 0.
    pub sequence: u64,
}

/// The fixed header of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record; written by the broker.
    pub base_offset: Offset,
    /// When the broker appended it, in milliseconds since the epoch.
    pub append_time_ms: u64,
    /// CRC-32C of all that follows this field, the body included.
    pub crc: u32,
    /// Bytes of the body as it travels.
    pub body_len: u32,
    /// How the body is compressed.
    pub codec: Codec,
    /// Which columns the body holds.
    pub columns: ColumnFlags,
    /// How many records.
    pub record_count: u32,
    /// The time that timestamp deltas count from, in milliseconds since the epoch.
    pub base_timestamp_ms: i64,
    /// The largest timestamp of the batch, in milliseconds since the epoch.
    pub max_timestamp_ms: i64,
    /// The producer's identity and sequence.
    pub producer: ProducerSequence,
    /// Bytes of the body once decompressed.
    pub raw_len: u32,
    /// Bytes of all keys.
    pub keys_len: u32,
    /// Bytes of all values.
    pub values_len: u32,
    /// Bytes of all headers.
    pub headers_len: u32,
    /// Bytes of the content type.
    pub content_type_len: u16,
    /// How many offsets the batch takes: the record count, or more after compaction.
    pub offset_span: u32,
}

impl BatchHeader {
    /// Bytes of header and body.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body_len as usize
    }

    /// The header as it travels and is stored.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.base_offset.0.to_le_bytes());
        put(&self.append_time_ms.to_le_bytes());
        put(&self.crc.to_le_bytes());
        put(&self.body_len.to_le_bytes());
        put(&[VERSION, self.codec as u8]);
        put(&self.columns.0.to_le_bytes());
        put(&self.record_count.to_le_bytes());
        put(&self.base_timestamp_ms.to_le_bytes());
        put(&((self.max_timestamp_ms.saturating_sub(self.base_timestamp_ms)) as u32).to_le_bytes());
        put(&self.producer.epoch.to_le_bytes());
        put(&self.producer.producer_id.0.to_le_bytes());
        put(&self.producer.sequence.to_le_bytes());
        put(&self.raw_len.to_le_bytes());
        put(&self.keys_len.to_le_bytes());
        put(&self.values_len.to_le_bytes());
        put(&self.headers_len.to_le_bytes());
        put(&self.offset_span.to_le_bytes());
        put(&self.content_type_len.to_le_bytes());
        // The last two bytes are reserved and zero.
        debug_assert_eq!(at, HEADER_LEN - 2);
        out
    }

    /// Reads a header from the front of `bytes` and checks every field against its limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(mut from) = bytes.get(..HEADER_LEN) else {
            return Err(BatchError::Truncated {
                have: bytes.len(),
                need: HEADER_LEN,
            });
        };
        let base_offset = Offset(from.get_u64_le());
        let append_time_ms = from.get_u64_le();
        let crc = from.get_u32_le();
        let body_len = from.get_u32_le();
        let version = from.get_u8();
        if version != VERSION {
            return Err(BatchError::UnknownVersion(version));
        }
        let codec = Codec::from_byte(from.get_u8())?;
        let columns = from.get_u16_le();
        let record_count = from.get_u32_le();
        let base_timestamp_ms = from.get_i64_le();
        let max_timestamp_delta = from.get_u32_le();
        let epoch = from.get_u32_le();
        let producer_id = ProducerId(from.get_u64_le());
        let sequence = from.get_u64_le();
        let header = Self {
            base_offset,
            append_time_ms,
            crc,
            body_len,
            codec,
            columns: ColumnFlags(columns),
            record_count,
            base_timestamp_ms,
            max_timestamp_ms: base_timestamp_ms.saturating_add(max_timestamp_delta.into()),
            producer: ProducerSequence {
                producer_id,
                epoch,
                sequence,
            },
            raw_len: from.get_u32_le(),
            keys_len: from.get_u32_le(),
            values_len: from.get_u32_le(),
            headers_len: from.get_u32_le(),
            offset_span: from.get_u32_le(),
            content_type_len: from.get_u16_le(),
        };
        if columns & !ColumnFlags::ALL != 0 || from.get_u16_le() != 0 {
            return Err(BatchError::Malformed("it uses flags that are not known"));
        }
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        let body_bytes_max = (BATCH_BYTES_MAX - HEADER_LEN) as u64;
        let limit = |what, value: u64, max: u64| {
            if value > max {
                Err(BatchError::LimitExceeded { what, value, max })
            } else {
                Ok(())
            }
        };
        limit("body length", self.body_len.into(), body_bytes_max)?;
        limit("decompressed length", self.raw_len.into(), body_bytes_max)?;
        limit(
            "record count",
            self.record_count.into(),
            RECORDS_PER_BATCH_MAX.into(),
        )?;
        limit(
            "content type length",
            self.content_type_len.into(),
            CONTENT_TYPE_BYTES_MAX as u64,
        )?;
        if self.offset_span < self.record_count {
            return Err(BatchError::Malformed("it has fewer offsets than records"));
        }
        if self.offset_span != self.record_count && !self.columns.has(ColumnFlags::OFFSETS) {
            return Err(BatchError::Malformed("its offsets have gaps but no column"));
        }
        if self.codec == Codec::None && self.raw_len != self.body_len {
            return Err(BatchError::Malformed("its two lengths differ"));
        }
        if self
            .base_offset
            .0
            .checked_add(self.offset_span.into())
            .is_none()
        {
            return Err(BatchError::Malformed("its offsets overflow"));
        }
        Ok(())
    }

    /// The CRC-32C over what follows the CRC field, and the body.
    pub(super) fn compute_crc(&self, body: &[u8]) -> u32 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.encode()[CRC_COVERS_FROM..]);
        digest.update(body);
        digest.finalize() as u32
    }
}
