//! Batches: records that travel and are stored together, laid out as columns.
//!
//! ```text
//! header (88 bytes, little-endian)                 body
//! +--------------+-------------+------------+      +--------+------+---------+--------+
//! | base offset  | append time | CRC-32C    | ...  | values | keys | headers | arrays |
//! +--------------+-------------+------------+      +--------+------+---------+--------+
//!  \_ written in place by the   \_ covers all that follows it, header and body
//!     broker, outside the CRC
//! ```
//!
//! The body holds the bytes of all values, then of all keys, then of all headers, and then
//! the arrays that say where each record's part ends (see [`Columns`]). Values come first so
//! that a producer writes them once, to where they stay. A column that no record uses is
//! absent. Compression is over the whole body.
//!
//! ```
//! use flumen_protocol::batch::{Batch, BatchBuilder, Codec, RecordRef};
//!
//! let mut builder = BatchBuilder::new();
//! builder.push(&RecordRef::new(1_700_000_000_000, b"hello"))?;
//! let batch = builder.build(Codec::Lz4)?;
//!
//! let received = Batch::decode(batch.to_bytes())?;
//! let columns = received.columns()?;
//! assert_eq!(columns.record(0).value, Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod codec;
mod columns;
mod header;
mod record;

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

pub use self::{
    build::{BatchBuilder, PushError},
    codec::Codec,
    columns::{Columns, Ends, Validity},
    header::{BatchHeader, ColumnFlags, HEADER_LEN, PLACEMENT_LEN, ProducerSequence},
    record::{HeaderRef, Headers, RecordRef, encode_headers},
};
use crate::{ids::Offset, limits::BATCH_BYTES_MAX};

/// A batch in its encoded form: a header and a body that may be compressed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    body: Bytes,
}

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header announces.
    #[error("batch is cut short: {have} bytes of {need}")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// More bytes than the header announces.
    #[error("{0} bytes follow the batch")]
    TrailingBytes(usize),
    /// Written by a later version.
    #[error("batch has format version {0}; this build reads version {version}", version = header::VERSION)]
    UnknownVersion(u8),
    /// A limit is exceeded.
    #[error("{what} is {value}, over the limit of {max}")]
    LimitExceeded {
        /// The field.
        what: &'static str,
        /// What the header says.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// The bytes are not those that were written.
    #[error("batch is damaged: its CRC-32C is {computed:08x} but its header says {stored:08x}")]
    Damaged {
        /// The checksum of the bytes.
        computed: u32,
        /// The checksum in the header.
        stored: u32,
    },
    /// Whole by its checksum, but not of the format.
    #[error("batch breaks the format: {0}")]
    Malformed(&'static str),
    /// The compressed body cannot be expanded.
    #[error("batch body cannot be decompressed: {0}")]
    Decompress(String),
}

impl Batch {
    /// Takes one whole batch from `bytes`, checks header, limits and CRC. The columns are
    /// looked at by [`Batch::columns`] only.
    pub fn decode(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::decode_unchecked_crc(bytes)?;
        batch.check_crc()?;
        Ok(batch)
    }

    /// As [`Batch::decode`], for bytes whose CRC was checked where they entered the process.
    pub fn decode_unchecked_crc(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(&bytes)?;
        let need = header.encoded_len();
        if bytes.len() < need {
            return Err(BatchError::Truncated {
                have: bytes.len(),
                need,
            });
        }
        if bytes.len() > need {
            return Err(BatchError::TrailingBytes(bytes.len() - need));
        }
        let body = bytes.slice(HEADER_LEN..);
        Ok(Self { header, body })
    }

    /// Puts a header and the body that it announces together, and checks length and CRC.
    pub fn from_parts(header: BatchHeader, body: Bytes) -> Result<Self, BatchError> {
        let (have, need) = (HEADER_LEN + body.len(), header.encoded_len());
        if have < need {
            return Err(BatchError::Truncated { have, need });
        }
        if have > need {
            return Err(BatchError::TrailingBytes(have - need));
        }
        let batch = Self { header, body };
        batch.check_crc()?;
        Ok(batch)
    }

    /// Checks the CRC over header and body.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = self.header.compute_crc(&self.body);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::Damaged {
                computed,
                stored: self.header.crc,
            })
        }
    }

    /// Makes a batch of parts and seals it with its CRC.
    pub(crate) fn seal(mut header: BatchHeader, body: Bytes) -> Self {
        header.crc = header.compute_crc(&body);
        Self { header, body }
    }

    /// The header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The body as it travels: compressed if the header says so.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes of header and body.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// How many records it holds.
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// The offset of its first record.
    pub fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// The offset after its last record.
    pub fn end_offset(&self) -> Offset {
        self.header.base_offset.plus(self.header.offset_span.into())
    }

    /// Writes the place in the log into the header; the CRC stays valid.
    #[must_use]
    pub fn placed(mut self, base_offset: Offset, append_time_ms: u64) -> Self {
        self.header.base_offset = base_offset;
        self.header.append_time_ms = append_time_ms;
        self
    }

    /// Gives the batch the identity of an idempotent producer and seals it anew.
    #[must_use]
    pub fn sequenced(mut self, producer: ProducerSequence) -> Self {
        self.header.producer = producer;
        Self::seal(self.header, self.body)
    }

    /// A batch without records that only carries a producer's sequence on: what is left of
    /// a batch that plugins emptied.
    pub fn empty(producer: ProducerSequence) -> Self {
        let header = BatchHeader {
            producer,
            ..BatchHeader::default()
        };
        Self::seal(header, Bytes::new())
    }

    /// The columns, decompressed if need be and checked against each other.
    pub fn columns(&self) -> Result<Columns, BatchError> {
        let raw_len = self.header.raw_len as usize;
        let raw = self.header.codec.decompress(&self.body, raw_len)?;
        Columns::new(&self.header, raw)
    }

    /// Header and body in one buffer. Writers that can take two slices use
    /// [`BatchHeader::encode`] and [`Batch::body`] instead and copy nothing.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.body);
        out.freeze()
    }
}

/// Whether a length that a header announces can be that of a batch.
pub fn is_batch_len(len: usize) -> bool {
    (HEADER_LEN..=BATCH_BYTES_MAX).contains(&len)
}
