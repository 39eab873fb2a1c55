//! Columns on both sides of a call: records read out of those that came in, and columns
//! filled with what goes out.
use crate::{
    Headers, Output, Record,
    bindings::types::{Column, Records},
};

/// Reads records out of columns, in order.
///
/// The broker has checked the columns, so a position that does not fit cannot happen; it reads
/// as an empty string rather than as a panic, which lets the compiler drop the reading of
/// parts that a plugin does not look at.
pub(crate) struct Reader<'a> {
    keys: Option<ColumnReader<'a>>,
    values: ColumnReader<'a>,
    headers: Option<ColumnReader<'a>>,
    timestamp_base_ms: i64,
    timestamp_deltas: Option<&'a [u32]>,
    count: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(records: &'a Records) -> Self {
        Self {
            keys: records.keys.as_ref().map(ColumnReader::new),
            values: ColumnReader::new(&records.values),
            headers: records.headers.as_ref().map(ColumnReader::new),
            timestamp_base_ms: records.timestamp_base,
            timestamp_deltas: records.timestamp_deltas.as_deref(),
            count: records.count as usize,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn record(&self, index: usize) -> Record<'a> {
        Record {
            key: self.keys.as_ref().and_then(|keys| keys.get(index)),
            value: self.values.get(index),
            headers: Headers::from_encoded(
                self.headers
                    .as_ref()
                    .and_then(|headers| headers.get(index))
                    .unwrap_or_default(),
            ),
            timestamp_ms: self.timestamp_base_ms.saturating_add(
                self.timestamp_deltas
                    .and_then(|deltas| deltas.get(index))
                    .map_or(0, |delta| i64::from(*delta)),
            ),
        }
    }
}

struct ColumnReader<'a> {
    ends: &'a [u32],
    bytes: &'a [u8],
    validity: Option<&'a [u8]>,
}

impl<'a> ColumnReader<'a> {
    fn new(column: &'a Column) -> Self {
        Self {
            ends: &column.ends,
            bytes: &column.bytes,
            validity: column.validity.as_deref(),
        }
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&'a [u8]> {
        if let Some(validity) = self.validity
            && validity.get(index / 8).copied().unwrap_or_default() & (1 << (index % 8)) == 0
        {
            return None;
        }
        let start = match index {
            0 => 0,
            _ => self.ends.get(index - 1).copied().unwrap_or_default(),
        };
        let end = self.ends.get(index).copied().unwrap_or_default();
        Some(
            self.bytes
                .get(start as usize..end as usize)
                .unwrap_or_default(),
        )
    }
}

/// Collects the records that a transform returns.
pub(crate) struct Writer {
    keys: ColumnWriter,
    any_key: bool,
    values: ColumnWriter,
    headers: ColumnWriter,
    timestamps_ms: Vec<i64>,
}

impl Writer {
    /// A writer with room for about what came in.
    pub(crate) fn with_room_for(records: &Records) -> Self {
        Self {
            keys: ColumnWriter::with_room_for(records.keys.as_ref()),
            any_key: false,
            values: ColumnWriter::with_room_for(Some(&records.values)),
            headers: ColumnWriter::with_room_for(records.headers.as_ref()),
            timestamps_ms: Vec::with_capacity(records.count as usize),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.timestamps_ms.len()
    }

    pub(crate) fn push(&mut self, record: &Record<'_>, output: &Output) {
        let index = self.len();
        let key = output.key.resolve(record.key());
        self.any_key |= key.is_some();
        self.keys.push(index, key);
        self.values
            .push(index, output.value.resolve(record.value()));
        output.write_headers(record, &mut self.headers.bytes);
        self.headers.end();
        self.timestamps_ms
            .push(output.timestamp_ms.unwrap_or(record.timestamp_ms()));
    }

    /// The columns; an error when the timestamps lie further apart than a batch can say.
    pub(crate) fn finish(self) -> Result<Records, String> {
        let base = self.timestamps_ms.iter().copied().min().unwrap_or_default();
        let last = self.timestamps_ms.iter().copied().max().unwrap_or_default();
        if last.abs_diff(base) > u64::from(u32::MAX) {
            return Err(
                "the timestamps of one batch may lie at most 4,294,967,295 ms apart".to_owned(),
            );
        }
        let timestamp_deltas = (base != last).then(|| {
            self.timestamps_ms
                .iter()
                .map(|timestamp_ms| timestamp_ms.abs_diff(base) as u32)
                .collect()
        });
        Ok(Records {
            count: self.timestamps_ms.len() as u32,
            keys: self.any_key.then(|| self.keys.finish()),
            values: self.values.finish(),
            headers: (!self.headers.bytes.is_empty()).then(|| self.headers.finish()),
            timestamp_base: base,
            timestamp_deltas,
        })
    }
}

#[derive(Default)]
struct ColumnWriter {
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// Filled from the first record without a string on.
    validity: Option<Vec<u8>>,
}

impl ColumnWriter {
    fn with_room_for(column: Option<&Column>) -> Self {
        column.map_or_else(Self::default, |column| Self {
            ends: Vec::with_capacity(column.ends.len()),
            bytes: Vec::with_capacity(column.bytes.len()),
            validity: None,
        })
    }

    fn push(&mut self, index: usize, string: Option<&[u8]>) {
        match string {
            Some(string) => self.bytes.extend_from_slice(string),
            None if self.validity.is_none() => {
                let mut validity = vec![0xff; index / 8];
                validity.push((1 << (index % 8)) - 1);
                self.validity = Some(validity);
            }
            None => {}
        }
        if let Some(validity) = &mut self.validity {
            if index / 8 == validity.len() {
                validity.push(0);
            }
            validity[index / 8] |= u8::from(string.is_some()) << (index % 8);
        }
        self.end();
    }

    fn end(&mut self) {
        let end = u32::try_from(self.bytes.len()).expect("a WebAssembly memory has 4 GiB at most");
        self.ends.push(end);
    }

    fn finish(self) -> Column {
        Column {
            ends: self.ends,
            bytes: self.bytes,
            validity: self.validity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rebuild(records: &[(Record<'_>, Output)]) -> Records {
        let mut writer = Writer::with_room_for(&empty());
        for (record, output) in records {
            writer.push(record, output);
        }
        writer.finish().unwrap()
    }

    fn empty() -> Records {
        Writer {
            keys: ColumnWriter::default(),
            any_key: false,
            values: ColumnWriter::default(),
            headers: ColumnWriter::default(),
            timestamps_ms: Vec::new(),
        }
        .finish()
        .unwrap()
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let headers = crate::encode_headers([("a", &b"1"[..]), ("b", b"")]);
        let mut records = Vec::new();
        for index in 0..40_i64 {
            let mut record = Record::new(if index % 3 == 0 { "" } else { "value" })
                .with_timestamp_ms(1_000 + index % 5);
            if index % 4 != 1 {
                record = record.with_key("key");
            }
            if index == 17 {
                record = record.with_headers(Headers::from_encoded(&headers));
            }
            if index % 7 == 2 {
                record.value = None;
            }
            records.push(record);
        }
        let same: Vec<_> = records
            .iter()
            .map(|record| (*record, Output::same()))
            .collect();
        let columns = rebuild(&same);
        let reader = Reader::new(&columns);
        assert_eq!(reader.count(), records.len());
        for (index, record) in records.iter().enumerate() {
            assert_eq!(reader.record(index), *record, "record {index}");
        }
    }

    #[test]
    fn a_part_that_no_record_has_is_no_column() {
        let columns = rebuild(&[(Record::new("1"), Output::same())]);
        assert!(columns.keys.is_none());
        assert!(columns.headers.is_none());
        assert!(columns.timestamp_deltas.is_none());
        assert!(columns.values.validity.is_none());
    }

    #[test]
    fn an_output_says_how_it_differs() {
        let headers = crate::encode_headers([("a", &b"1"[..]), ("b", b"2")]);
        let record = Record::new("value")
            .with_key("key")
            .with_headers(Headers::from_encoded(&headers));
        let output = Output::same()
            .value("other")
            .no_key()
            .without_header("a")
            .header("c", "3")
            .timestamp_ms(9);
        let columns = rebuild(&[(record, output)]);
        let changed = Reader::new(&columns).record(0);
        assert_eq!(changed.value(), Some(&b"other"[..]));
        assert_eq!(changed.key(), None);
        assert_eq!(changed.timestamp_ms(), 9);
        assert_eq!(
            changed.headers().into_iter().collect::<Vec<_>>(),
            [("b", &b"2"[..]), ("c", b"3")]
        );
    }

    #[test]
    fn timestamps_too_far_apart_are_an_error() {
        let mut writer = Writer::with_room_for(&empty());
        writer.push(
            &Record::new("1").with_timestamp_ms(i64::MIN),
            &Output::same(),
        );
        writer.push(
            &Record::new("1").with_timestamp_ms(i64::MAX),
            &Output::same(),
        );
        assert!(writer.finish().unwrap_err().contains("apart"));
    }
}
