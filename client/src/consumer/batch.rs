//! A received batch: messages that share one buffer, decoded one by one.

use std::{ops::Range, sync::Arc};

use flumen_protocol::{
    batch::{Columns, RecordRef},
    ids::Offset,
    topic::TopicName,
};
use serde::de::DeserializeOwned;

use super::error::ConsumeError;
use crate::{
    message::{HeaderMap, Received},
    payload::{self, DecodeError, Format},
};

/// Reads the value of a record; `None` passes the record over.
pub(super) type ReadValue<T> = fn(&Columns, usize, Format) -> Option<Result<T, DecodeError>>;

/// Reads values, and passes over records without one.
pub(super) fn read_value<T: DeserializeOwned + 'static>(
    columns: &Columns,
    index: usize,
    format: Format,
) -> Option<Result<T, DecodeError>> {
    let value = columns.record(index).value?;
    let share = || columns.value_bytes(index).unwrap_or_default();
    Some(payload::decode(format, value, share))
}

/// Reads values, and says so where a record has none.
#[expect(clippy::unnecessary_wraps, reason = "it is a `ReadValue`")]
pub(super) fn read_optional_value<T: DeserializeOwned + 'static>(
    columns: &Columns,
    index: usize,
    format: Format,
) -> Option<Result<Option<T>, DecodeError>> {
    Some(read_value(columns, index, format).transpose())
}

/// How to read batches.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) topic: TopicName,
    pub(super) format: Format,
    /// `None` reads whatever the content type says.
    pub(super) content_type: Option<String>,
    pub(super) read_value: ReadValue<T>,
}

/// Messages of one partition that came together. Iterate to decode them one by one, or look
/// at their bytes in place with [`ReceivedBatch::records`].
#[derive(Debug)]
pub struct ReceivedBatch<T> {
    reading: Arc<Reading<T>>,
    /// The partition that all of them lie in.
    pub partition: u32,
    columns: Columns,
    left: Range<usize>,
}

impl<T> ReceivedBatch<T> {
    /// The records of `columns` from `from` to before `to`.
    pub(super) fn new(
        reading: Arc<Reading<T>>,
        partition: u32,
        columns: Columns,
        from: Offset,
        to: Option<Offset>,
    ) -> Self {
        let all = columns.len();
        let index_of = |offset| partition_point(all, |index| columns.offset(index) < offset);
        let start = index_of(from);
        let end = to.map_or(all, index_of).max(start);
        Self {
            reading,
            partition,
            columns,
            left: start..end,
        }
    }

    /// An error if the values are not of the type that is read.
    pub(super) fn check_type(&self) -> Result<(), ConsumeError> {
        let found = self.columns.content_type();
        let reading = &self.reading;
        match &reading.content_type {
            Some(wanted) if !self.is_empty() && !reading.format.reads(wanted, found) => {
                Err(ConsumeError::WrongType {
                    topic: reading.topic.clone(),
                    partition: self.partition,
                    offset: self.columns.offset(self.left.start),
                    found: found.to_owned(),
                    wanted: wanted.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// How many messages are left in it.
    pub fn len(&self) -> usize {
        self.left.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// What the producer said of the values; empty if nothing.
    pub fn content_type(&self) -> &str {
        self.columns.content_type()
    }

    /// The records that are left, with their offsets, without decoding or copying anything.
    pub fn records(&self) -> impl ExactSizeIterator<Item = (Offset, RecordRef<'_>)> {
        let columns = &self.columns;
        let range = self.left.clone();
        range.map(move |index| (columns.offset(index), columns.record(index)))
    }

    /// The offset of the next message.
    pub(super) fn next_offset(&self) -> Option<Offset> {
        (!self.is_empty()).then(|| self.columns.offset(self.left.start))
    }
}

impl<T> Iterator for ReceivedBatch<T> {
    type Item = Result<Received<T>, ConsumeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let index = self.left.next()?;
            let columns = &self.columns;
            match (self.reading.read_value)(columns, index, self.reading.format) {
                None => {}
                Some(Ok(value)) => {
                    return Some(Ok(Received {
                        partition: self.partition,
                        offset: columns.offset(index),
                        timestamp_ms: columns.timestamp_ms(index),
                        key: columns.key_bytes(index),
                        headers: HeaderMap(columns.header_bytes(index)),
                        value,
                    }));
                }
                Some(Err(source)) => return Some(Err(self.undecodable(index, source))),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left.len()))
    }
}

impl<T> ReceivedBatch<T> {
    #[cold]
    fn undecodable(&self, index: usize, source: DecodeError) -> ConsumeError {
        ConsumeError::Decode {
            topic: self.reading.topic.clone(),
            partition: self.partition,
            offset: self.columns.offset(index),
            source: Arc::new(source),
        }
    }
}

/// The first of `0..len` for which `is_before` does not hold; it holds for all before it.
fn partition_point(len: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
