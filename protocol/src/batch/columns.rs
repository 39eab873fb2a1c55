//! The columns of a batch, read in place.

use std::ops::Range;

use bytes::Bytes;

use super::{BatchError, BatchHeader, ColumnFlags, Headers, RecordRef};
use crate::ids::Offset;

/// The columns of a decompressed batch, all slices of one buffer. In order:
///
/// | column | type | present if |
/// | --- | --- | --- |
/// | values | bytes | always |
/// | keys | bytes | `KEYS` |
/// | headers | bytes | `HEADERS` |
/// | offset deltas | u32 each, rising | `OFFSETS` |
/// | timestamp deltas | u32 each, milliseconds | `TIMESTAMPS` |
/// | key validity | one bit each, lowest first | `KEY_VALIDITY` |
/// | key ends | u32 each, rising | `KEYS` |
/// | value validity | one bit each, lowest first | `VALUE_VALIDITY` |
/// | value ends | u32 each, rising | always |
/// | header ends | u32 each, rising | `HEADERS` |
/// | content type | UTF-8 | its length is not 0 |
///
/// A record's part of a column lies between the end of the record before it and its own.
#[derive(Clone, Debug)]
pub struct Columns {
    raw: Bytes,
    record_count: usize,
    base_offset: Offset,
    base_timestamp_ms: i64,
    values: Range<usize>,
    keys: Range<usize>,
    headers: Range<usize>,
    offset_deltas: Option<Range<usize>>,
    timestamp_deltas: Option<Range<usize>>,
    key_validity: Option<Range<usize>>,
    key_ends: Option<Range<usize>>,
    value_validity: Option<Range<usize>>,
    value_ends: Range<usize>,
    header_ends: Option<Range<usize>>,
    content_type: Range<usize>,
}

/// End positions, one a record, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a>(&'a [u8]);

impl<'a> Ends<'a> {
    /// The number at `index`, which must be lower than the number of records.
    pub fn get(&self, index: usize) -> u32 {
        let bytes = &self.0[index * 4..index * 4 + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Where the record at `index` begins and ends in its column.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.get(index - 1) };
        start as usize..self.get(index) as usize
    }

    /// All numbers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The column as it lies in memory.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Rising, and the last one where the column's bytes end.
    fn check(&self, column_len: usize, what: &'static str) -> Result<(), BatchError> {
        let mut before = 0;
        let mut rising = true;
        for end in self.iter() {
            rising &= before <= end;
            before = end;
        }
        if rising && before as usize == column_len {
            Ok(())
        } else {
            Err(BatchError::Malformed(what))
        }
    }
}

/// Which records have a part in a column, one bit a record.
#[derive(Clone, Copy, Debug)]
pub struct Validity<'a>(&'a [u8]);

impl<'a> Validity<'a> {
    /// Whether the record at `index` has one.
    pub fn get(&self, index: usize) -> bool {
        self.0[index / 8] & (1 << (index % 8)) != 0
    }

    /// The column as it lies in memory.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl Columns {
    /// Finds the columns in a decompressed body and checks them against each other.
    pub(super) fn new(header: &BatchHeader, raw: Bytes) -> Result<Self, BatchError> {
        let record_count = header.record_count as usize;
        let flags = header.columns;
        let mut at = 0_usize;
        let mut take = |len: usize| {
            let start = at;
            at = at.saturating_add(len);
            start..at
        };
        let values = take(header.values_len as usize);
        let keys = take(header.keys_len as usize);
        let headers = take(header.headers_len as usize);
        let mut take_if = |flag, len| flags.has(flag).then(|| take(len));
        let array_len = record_count * 4;
        let bitmap_len = record_count.div_ceil(8);
        let offset_deltas = take_if(ColumnFlags::OFFSETS, array_len);
        let timestamp_deltas = take_if(ColumnFlags::TIMESTAMPS, array_len);
        let key_validity = take_if(ColumnFlags::KEY_VALIDITY, bitmap_len);
        let key_ends = take_if(ColumnFlags::KEYS, array_len);
        let value_validity = take_if(ColumnFlags::VALUE_VALIDITY, bitmap_len);
        let value_ends = take(array_len);
        let header_ends = flags.has(ColumnFlags::HEADERS).then(|| take(array_len));
        let content_type = take(usize::from(header.content_type_len));
        if at != raw.len() {
            return Err(BatchError::Malformed(
                "its columns do not add up to its length",
            ));
        }
        let columns = Self {
            raw,
            record_count,
            base_offset: header.base_offset,
            base_timestamp_ms: header.base_timestamp_ms,
            values,
            keys,
            headers,
            offset_deltas,
            timestamp_deltas,
            key_validity,
            key_ends,
            value_validity,
            value_ends,
            header_ends,
            content_type,
        };
        columns.check(header)?;
        Ok(columns)
    }

    fn check(&self, header: &BatchHeader) -> Result<(), BatchError> {
        let malformed = |what| Err(BatchError::Malformed(what));
        self.value_ends()
            .check(self.values.len(), "its value positions are wrong")?;
        match self.key_ends() {
            Some(ends) => ends.check(self.keys.len(), "its key positions are wrong")?,
            None if self.keys.is_empty() && self.key_validity.is_none() => {}
            None => return malformed("it has keys without positions"),
        }
        match self.header_ends() {
            Some(ends) => ends.check(self.headers.len(), "its header positions are wrong")?,
            None if self.headers.is_empty() => {}
            None => return malformed("it has headers without positions"),
        }
        if let Some(deltas) = self.offset_deltas() {
            let mut next = 0;
            for delta in deltas.iter() {
                if delta < next || delta >= header.offset_span {
                    return malformed("its offsets do not rise");
                }
                next = delta + 1;
            }
        }
        if std::str::from_utf8(&self.raw[self.content_type.clone()]).is_err() {
            return malformed("its content type is not UTF-8");
        }
        if self.header_ends.is_some()
            && !(0..self.record_count).all(|index| self.record(index).headers.is_valid())
        {
            return malformed("its headers are wrong");
        }
        Ok(())
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.record_count
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The record at `index`.
    ///
    /// # Panics
    /// When `index` is not lower than [`Columns::len`].
    pub fn record(&self, index: usize) -> RecordRef<'_> {
        RecordRef {
            timestamp_ms: self.timestamp_ms(index),
            key: self.key_range(index).map(|range| &self.raw[range]),
            value: self.value_range(index).map(|range| &self.raw[range]),
            headers: Headers(self.header_ends().map_or(&[], |ends| {
                &self.raw[shift(ends.range(index), self.headers.start)]
            })),
        }
    }

    /// All records in order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        (0..self.record_count).map(|index| self.record(index))
    }

    /// The offset of the record at `index`.
    pub fn offset(&self, index: usize) -> Offset {
        let delta = self
            .offset_deltas()
            .map_or(index as u64, |deltas| deltas.get(index).into());
        self.base_offset.plus(delta)
    }

    /// The time of the record at `index`, in milliseconds since the epoch.
    pub fn timestamp_ms(&self, index: usize) -> i64 {
        let delta = self
            .timestamp_deltas()
            .map_or(0, |deltas| deltas.get(index));
        self.base_timestamp_ms.saturating_add(delta.into())
    }

    /// The key of the record at `index`, sharing the batch's buffer.
    pub fn key_bytes(&self, index: usize) -> Option<Bytes> {
        self.key_range(index).map(|range| self.raw.slice(range))
    }

    /// The value of the record at `index`, sharing the batch's buffer.
    pub fn value_bytes(&self, index: usize) -> Option<Bytes> {
        self.value_range(index).map(|range| self.raw.slice(range))
    }

    /// The encoded headers of the record at `index`, sharing the batch's buffer.
    pub fn header_bytes(&self, index: usize) -> Bytes {
        self.header_ends().map_or_else(Bytes::new, |ends| {
            self.raw.slice(shift(ends.range(index), self.headers.start))
        })
    }

    /// What the values are, such as `application/json`; empty when the producer did not say.
    pub fn content_type(&self) -> &str {
        std::str::from_utf8(&self.raw[self.content_type.clone()]).unwrap_or_default()
    }

    /// The bytes of all values.
    pub fn values(&self) -> &[u8] {
        &self.raw[self.values.clone()]
    }

    /// The bytes of all keys.
    pub fn keys(&self) -> &[u8] {
        &self.raw[self.keys.clone()]
    }

    /// The bytes of all headers.
    pub fn headers(&self) -> &[u8] {
        &self.raw[self.headers.clone()]
    }

    /// Where each value ends.
    pub fn value_ends(&self) -> Ends<'_> {
        Ends(&self.raw[self.value_ends.clone()])
    }

    /// Where each key ends.
    pub fn key_ends(&self) -> Option<Ends<'_>> {
        self.array(self.key_ends.as_ref())
    }

    /// Where each record's headers end.
    pub fn header_ends(&self) -> Option<Ends<'_>> {
        self.array(self.header_ends.as_ref())
    }

    /// Milliseconds from [`Columns::base_timestamp_ms`] to each record's time.
    pub fn timestamp_deltas(&self) -> Option<Ends<'_>> {
        self.array(self.timestamp_deltas.as_ref())
    }

    /// The time that deltas count from, in milliseconds since the epoch.
    pub fn base_timestamp_ms(&self) -> i64 {
        self.base_timestamp_ms
    }

    /// Which records have a key; `None` when all do or, without [`Columns::key_ends`], none.
    pub fn key_validity(&self) -> Option<Validity<'_>> {
        self.key_validity
            .as_ref()
            .map(|range| Validity(&self.raw[range.clone()]))
    }

    /// Which records have a value; `None` when all do.
    pub fn value_validity(&self) -> Option<Validity<'_>> {
        self.value_validity
            .as_ref()
            .map(|range| Validity(&self.raw[range.clone()]))
    }

    fn offset_deltas(&self) -> Option<Ends<'_>> {
        self.array(self.offset_deltas.as_ref())
    }

    fn array(&self, range: Option<&Range<usize>>) -> Option<Ends<'_>> {
        range.map(|range| Ends(&self.raw[range.clone()]))
    }

    fn key_range(&self, index: usize) -> Option<Range<usize>> {
        let valid = self.key_validity().is_none_or(|bits| bits.get(index));
        let ends = self.key_ends().filter(|_| valid)?;
        Some(shift(ends.range(index), self.keys.start))
    }

    fn value_range(&self, index: usize) -> Option<Range<usize>> {
        let valid = self.value_validity().is_none_or(|bits| bits.get(index));
        valid.then(|| shift(self.value_ends().range(index), self.values.start))
    }
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
