//! Building a batch, record by record.

use bytes::Bytes;

use super::{
    Batch, BatchHeader, Codec, ColumnFlags, HEADER_LEN, ProducerSequence, RecordRef,
    columns::Columns,
};
use crate::{
    ids::Offset,
    limits::{
        BATCH_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX,
        HEADERS_PER_RECORD_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX,
    },
    size::Size,
};

/// Bytes that a record may take in the arrays besides its own bytes: three positions, two
/// deltas and two validity bits.
const RECORD_OVERHEAD_MAX: usize = 4 * 5 + 1;

/// Why a record was not taken into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The batch has no room for it: build this batch and push the record to the next.
    #[error("the batch is full")]
    BatchFull,
    /// The record is larger than any batch takes.
    #[error("a record of {} is over the limit of {}", Size::of(*len), Size::of(RECORD_BYTES_MAX))]
    RecordTooLarge {
        /// Bytes of key, value and headers.
        len: usize,
    },
    /// The key is too long.
    #[error("a key of {} is over the limit of {}", Size::of(*len), Size::of(KEY_BYTES_MAX))]
    KeyTooLarge {
        /// Bytes of the key.
        len: usize,
    },
    /// The record has too many headers.
    #[error("a record with {count} headers is over the limit of {HEADERS_PER_RECORD_MAX}")]
    TooManyHeaders {
        /// How many.
        count: usize,
    },
    /// A header's name or value is too long.
    #[error(
        "a header is over the limit of {} for its name or of {} for its value",
        Size::of(HEADER_NAME_BYTES_MAX),
        Size::of(HEADER_VALUE_BYTES_MAX)
    )]
    HeaderTooLarge,
    /// The encoded headers are damaged.
    #[error("the record's headers are not of the format")]
    MalformedHeaders,
    /// The content type is too long.
    #[error("a content type of {} is over the limit of {}", Size::of(*len), Size::of(CONTENT_TYPE_BYTES_MAX))]
    ContentTypeTooLarge {
        /// Bytes of the content type.
        len: usize,
    },
}

/// Collects records into columns. Values are written once, to where they stay.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Room for the header, then the values: the front of the batch to be.
    values: Vec<u8>,
    value_ends: Vec<u32>,
    /// Filled from the first record without a value on.
    value_validity: Option<Vec<u8>>,
    keys: Vec<u8>,
    /// Filled from the first record with a key on.
    key_ends: Vec<u32>,
    /// Filled from the first record that differs from those before it on.
    key_validity: Option<Vec<u8>>,
    headers: Vec<u8>,
    /// Filled from the first record with headers on.
    header_ends: Vec<u32>,
    timestamps_ms: Vec<i64>,
    timestamp_min_ms: i64,
    timestamp_max_ms: i64,
    /// Set by compaction alone: the offset of each record from the batch's own.
    offset_deltas: Option<Vec<u32>>,
    content_type: String,
    record_count: usize,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for `bytes` of values.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            values: Vec::with_capacity(bytes.min(BATCH_BYTES_MAX)),
            ..Self::default()
        }
    }

    /// Says what the values are, for the whole batch.
    pub fn set_content_type(&mut self, content_type: &str) -> Result<(), PushError> {
        if content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return Err(PushError::ContentTypeTooLarge {
                len: content_type.len(),
            });
        }
        content_type.clone_into(&mut self.content_type);
        Ok(())
    }

    /// Adds a record.
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<(), PushError> {
        check_record(record)?;
        if !self.has_room_for(record) {
            return Err(PushError::BatchFull);
        }
        self.push_value(record.value);
        self.push_key(record.key);
        self.push_headers(record);
        self.push_timestamp(record.timestamp_ms);
        self.record_count += 1;
        Ok(())
    }

    /// Adds a record that keeps the offset it has, as compaction does.
    ///
    /// # Panics
    /// When some records were pushed with an offset and others without.
    pub fn push_at(&mut self, offset_delta: u32, record: &RecordRef<'_>) -> Result<(), PushError> {
        let pushed = self.record_count;
        let deltas = self.offset_deltas.get_or_insert_default();
        assert_eq!(deltas.len(), pushed, "all records carry an offset, or none");
        self.push(record)?;
        self.offset_deltas
            .get_or_insert_default()
            .push(offset_delta);
        Ok(())
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.record_count
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes that the batch will take uncompressed.
    pub fn encoded_len(&self) -> usize {
        let arrays = self.record_count * RECORD_OVERHEAD_MAX;
        let bytes = self.values.len().max(HEADER_LEN) + self.keys.len() + self.headers.len();
        bytes + arrays + self.content_type.len() + RECORD_OVERHEAD_MAX
    }

    /// Finishes the batch.
    pub fn build(self, codec: Codec) -> Result<Batch, super::BatchError> {
        self.build_sequenced(codec, ProducerSequence::default())
    }

    /// Finishes the batch of an idempotent producer.
    pub fn build_sequenced(
        self,
        codec: Codec,
        producer: ProducerSequence,
    ) -> Result<Batch, super::BatchError> {
        let record_count = self.record_count as u32;
        let span = self
            .offset_deltas
            .as_ref()
            .and_then(|deltas| deltas.last())
            .map_or(record_count, |last| last + 1);
        self.build_spanning(codec, producer, Offset(0), span)
    }

    /// Finishes a batch that takes `offset_span` offsets from `base_offset` on.
    pub fn build_spanning(
        mut self,
        codec: Codec,
        producer: ProducerSequence,
        base_offset: Offset,
        offset_span: u32,
    ) -> Result<Batch, super::BatchError> {
        let mut header = BatchHeader {
            base_offset,
            codec,
            record_count: self.record_count as u32,
            base_timestamp_ms: self.timestamp_min_ms,
            max_timestamp_ms: self.timestamp_max_ms,
            producer,
            keys_len: self.keys.len() as u32,
            values_len: self.values.len().saturating_sub(HEADER_LEN) as u32,
            headers_len: self.headers.len() as u32,
            content_type_len: self.content_type.len() as u16,
            offset_span,
            ..BatchHeader::default()
        };
        header.columns = self.append_columns();
        let raw = Bytes::from(std::mem::take(&mut self.values)).slice(HEADER_LEN..);
        header.raw_len = raw.len() as u32;
        let body = match codec.compress(&raw) {
            Some(compressed) => Bytes::from(compressed),
            None => {
                header.codec = Codec::None;
                raw
            }
        };
        header.body_len = body.len() as u32;
        // What is built must be readable, whatever was pushed.
        BatchHeader::decode(&header.encode())?;
        debug_assert!(Columns::new(&header, body.clone()).is_ok() || header.codec != Codec::None);
        Ok(Batch::seal(header, body))
    }

    fn has_room_for(&self, record: &RecordRef<'_>) -> bool {
        let spread = self
            .timestamp_max_ms
            .max(record.timestamp_ms)
            .saturating_sub(self.timestamp_min_ms.min(record.timestamp_ms));
        self.is_empty()
            || (self.record_count < RECORDS_PER_BATCH_MAX as usize
                && self.encoded_len() + record.len() <= BATCH_BYTES_MAX
                && spread <= i64::from(u32::MAX))
    }

    fn push_value(&mut self, value: Option<&[u8]>) {
        if self.values.is_empty() {
            self.values.resize(HEADER_LEN, 0);
        }
        push_bit(
            &mut self.value_validity,
            self.record_count,
            value.is_some(),
            true,
        );
        self.values.extend_from_slice(value.unwrap_or_default());
        let end = self.values.len() - HEADER_LEN;
        self.value_ends.push(end as u32);
    }

    fn push_key(&mut self, key: Option<&[u8]>) {
        let before = self.key_ends.len();
        if key.is_none() && before == 0 {
            return;
        }
        if before == 0 {
            self.key_ends.resize(self.record_count, 0);
        }
        let all_before_had_keys = before > 0 || self.record_count == 0;
        push_bit(
            &mut self.key_validity,
            self.record_count,
            key.is_some(),
            all_before_had_keys,
        );
        self.keys.extend_from_slice(key.unwrap_or_default());
        self.key_ends.push(self.keys.len() as u32);
    }

    fn push_headers(&mut self, record: &RecordRef<'_>) {
        if record.headers.is_empty() && self.header_ends.is_empty() {
            return;
        }
        self.header_ends.resize(self.record_count, 0);
        self.headers.extend_from_slice(record.headers.as_encoded());
        self.header_ends.push(self.headers.len() as u32);
    }

    fn push_timestamp(&mut self, timestamp_ms: i64) {
        if self.is_empty() {
            self.timestamp_min_ms = timestamp_ms;
            self.timestamp_max_ms = timestamp_ms;
        }
        self.timestamp_min_ms = self.timestamp_min_ms.min(timestamp_ms);
        self.timestamp_max_ms = self.timestamp_max_ms.max(timestamp_ms);
        self.timestamps_ms.push(timestamp_ms);
    }

    /// Appends all columns behind the values, in the order of the format.
    fn append_columns(&mut self) -> ColumnFlags {
        let out = &mut self.values;
        if out.is_empty() {
            out.resize(HEADER_LEN, 0);
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&self.headers);
        if let Some(deltas) = &self.offset_deltas {
            extend_u32s(out, deltas.iter().copied());
        }
        let base = self.timestamp_min_ms;
        let has_timestamps = self.timestamp_max_ms != base;
        if has_timestamps {
            let deltas = self.timestamps_ms.iter().map(|time| (time - base) as u32);
            extend_u32s(out, deltas);
        }
        out.extend_from_slice(self.key_validity.as_deref().unwrap_or_default());
        extend_u32s(out, self.key_ends.iter().copied());
        out.extend_from_slice(self.value_validity.as_deref().unwrap_or_default());
        extend_u32s(out, self.value_ends.iter().copied());
        extend_u32s(out, self.header_ends.iter().copied());
        out.extend_from_slice(self.content_type.as_bytes());
        ColumnFlags::default()
            .with(ColumnFlags::OFFSETS, self.offset_deltas.is_some())
            .with(ColumnFlags::TIMESTAMPS, has_timestamps)
            .with(ColumnFlags::KEYS, !self.key_ends.is_empty())
            .with(ColumnFlags::KEY_VALIDITY, self.key_validity.is_some())
            .with(ColumnFlags::VALUE_VALIDITY, self.value_validity.is_some())
            .with(ColumnFlags::HEADERS, !self.header_ends.is_empty())
    }
}

fn check_record(record: &RecordRef<'_>) -> Result<(), PushError> {
    let len = record.len();
    if len > RECORD_BYTES_MAX {
        return Err(PushError::RecordTooLarge { len });
    }
    let key_len = record.key.map_or(0, <[u8]>::len);
    if key_len > KEY_BYTES_MAX {
        return Err(PushError::KeyTooLarge { len: key_len });
    }
    if record.headers.is_empty() {
        return Ok(());
    }
    let count = record.headers.into_iter().count();
    if count > HEADERS_PER_RECORD_MAX {
        return Err(PushError::TooManyHeaders { count });
    }
    let fits = |header: super::HeaderRef<'_>| {
        header.name.len() <= HEADER_NAME_BYTES_MAX && header.value.len() <= HEADER_VALUE_BYTES_MAX
    };
    if !record.headers.into_iter().all(fits) {
        return Err(PushError::HeaderTooLarge);
    }
    if !record.headers.is_valid() {
        return Err(PushError::MalformedHeaders);
    }
    Ok(())
}

/// Notes whether the record at `index` has a part in a column. The bitmap starts to exist
/// with the first record that differs from `all_before`.
fn push_bit(bitmap: &mut Option<Vec<u8>>, index: usize, valid: bool, all_before: bool) {
    if bitmap.is_none() && (valid == all_before || index == 0 && valid) {
        return;
    }
    let bits = bitmap.get_or_insert_with(|| {
        let mut bits = vec![if all_before { 0xff } else { 0 }; index.div_ceil(8)];
        if all_before && !index.is_multiple_of(8) {
            bits[index / 8] = (1 << (index % 8)) - 1;
        }
        bits
    });
    if index / 8 == bits.len() {
        bits.push(0);
    }
    if valid {
        bits[index / 8] |= 1 << (index % 8);
    }
}

fn extend_u32s(out: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u32>) {
    let start = out.len();
    out.resize(start + numbers.len() * 4, 0);
    for (bytes, number) in out[start..].chunks_exact_mut(4).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
}
