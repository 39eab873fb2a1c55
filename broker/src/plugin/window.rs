//! The part of a batch that goes into one call, in the form in which it crosses into a
//! plugin's memory.
use std::ops::Range;

use flumen_protocol::batch::{Columns, Ends, Validity};

use super::{
    limits::CALL_BYTES_MAX,
    wit::types::{ColumnParam, RecordsParam},
};

/// Buffers for what does not lie in the batch as the plugin needs it: positions are not
/// aligned there, and begin at the batch's first record. Used again from call to call.
#[derive(Default)]
pub(super) struct Window {
    keys: Scratch,
    values: Scratch,
    headers: Scratch,
    timestamp_deltas: Vec<u32>,
}

#[derive(Default)]
struct Scratch {
    ends: Vec<u32>,
    validity: Vec<u8>,
}

impl Window {
    /// The records of `range`, ready for a call.
    pub(super) fn of<'a>(
        &'a mut self,
        columns: &'a Columns,
        range: &Range<usize>,
    ) -> RecordsParam<'a> {
        RecordsParam {
            count: range.len() as u32,
            keys: columns.key_ends().map(|ends| {
                self.keys
                    .column(columns.keys(), ends, columns.key_validity(), range)
            }),
            values: self.values.column(
                columns.values(),
                columns.value_ends(),
                columns.value_validity(),
                range,
            ),
            headers: columns
                .header_ends()
                .map(|ends| self.headers.column(columns.headers(), ends, None, range)),
            timestamp_base: columns.base_timestamp_ms(),
            timestamp_deltas: columns.timestamp_deltas().map(|deltas| {
                copy(&mut self.timestamp_deltas, deltas, range, 0);
                &*self.timestamp_deltas
            }),
        }
    }
}

impl Scratch {
    fn column<'a>(
        &'a mut self,
        bytes: &'a [u8],
        ends: Ends<'a>,
        validity: Option<Validity<'a>>,
        range: &Range<usize>,
    ) -> ColumnParam<'a> {
        let start = start(ends, range.start);
        copy(&mut self.ends, ends, range, start);
        let len = self.ends.last().copied().unwrap_or_default();
        ColumnParam {
            ends: &self.ends,
            bytes: &bytes[start as usize..(start + len) as usize],
            validity: validity.map(|bits| shift(&mut self.validity, bits.as_bytes(), range)),
        }
    }
}

/// The bits of `range`, from the first bit on.
fn shift<'a>(to: &'a mut Vec<u8>, bits: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    if range.start.is_multiple_of(8) {
        return &bits[range.start / 8..range.end.div_ceil(8)];
    }
    to.clear();
    to.resize(range.len().div_ceil(8), 0);
    for (index, from) in range.clone().enumerate() {
        to[index / 8] |= (bits[from / 8] >> (from % 8) & 1) << (index % 8);
    }
    to
}

fn copy(to: &mut Vec<u32>, numbers: Ends<'_>, range: &Range<usize>, less: u32) {
    let (numbers, _) = numbers.as_bytes()[range.start * 4..range.end * 4].as_chunks::<4>();
    // Over slices of one length, which the compiler does several numbers at a time.
    to.resize(numbers.len(), 0);
    for (to, number) in to.iter_mut().zip(numbers) {
        *to = u32::from_le_bytes(*number) - less;
    }
}

fn start(ends: Ends<'_>, index: usize) -> u32 {
    if index == 0 { 0 } else { ends.get(index - 1) }
}

/// Cuts a batch into pieces of at most [`CALL_BYTES_MAX`] bytes, or of one larger record.
pub(super) fn pieces(columns: &Columns) -> Vec<Range<usize>> {
    let bytes = columns.values().len() + columns.keys().len() + columns.headers().len();
    if bytes <= CALL_BYTES_MAX {
        return if columns.is_empty() {
            Vec::new()
        } else {
            std::iter::once(0..columns.len()).collect()
        };
    }
    // Bytes of all records before `index`, over the three columns.
    let before = |index: usize| {
        let of = |ends: Option<Ends<'_>>| ends.map_or(0, |ends| start(ends, index) as usize);
        of(Some(columns.value_ends())) + of(columns.key_ends()) + of(columns.header_ends())
    };
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < columns.len() {
        // It only grows, so that the end of a piece is found in a few steps.
        let (mut fits, mut is_too_much) = (first + 1, columns.len() + 1);
        while fits + 1 < is_too_much {
            let middle = fits.midpoint(is_too_much);
            if before(middle) - before(first) <= CALL_BYTES_MAX {
                fits = middle;
            } else {
                is_too_much = middle;
            }
        }
        pieces.push(first..fits);
        first = fits;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use flumen_protocol::batch::{BatchBuilder, Codec, Headers, RecordRef, encode_headers};

    use super::*;

    fn columns(records: &[RecordRef<'_>]) -> Columns {
        let mut builder = BatchBuilder::new();
        for record in records {
            builder.push(record).unwrap();
        }
        builder.build(Codec::None).unwrap().columns().unwrap()
    }

    /// Key, value, headers and timestamp of a record.
    type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>, i64);

    /// What a plugin reads out of a window.
    fn read(window: &RecordsParam<'_>) -> Vec<Parts> {
        let part = |column: &ColumnParam<'_>, index: usize| {
            let valid = column
                .validity
                .is_none_or(|bits| bits[index / 8] >> (index % 8) & 1 == 1);
            let start = if index == 0 {
                0
            } else {
                column.ends[index - 1]
            };
            valid.then(|| column.bytes[start as usize..column.ends[index] as usize].to_vec())
        };
        (0..window.count as usize)
            .map(|index| {
                (
                    window.keys.as_ref().and_then(|keys| part(keys, index)),
                    part(&window.values, index),
                    window
                        .headers
                        .as_ref()
                        .and_then(|headers| part(headers, index))
                        .unwrap_or_default(),
                    window.timestamp_base
                        + window
                            .timestamp_deltas
                            .map_or(0, |deltas| i64::from(deltas[index])),
                )
            })
            .collect()
    }

    #[test]
    fn every_window_shows_the_records_of_its_range() {
        let headers = encode_headers([("name", &b"value"[..])]);
        let texts: Vec<_> = (0..30).map(|index| format!("text {index}")).collect();
        let records: Vec<_> = (0..30_usize)
            .map(|index| RecordRef {
                timestamp_ms: 1_000 + index as i64 % 4,
                key: (index % 3 != 0).then(|| texts[index].as_bytes()),
                value: (index % 5 != 2).then(|| texts[29 - index].as_bytes()),
                headers: Headers::from_encoded(if index % 7 == 1 { &headers } else { &[] }),
            })
            .collect();
        let columns = columns(&records);
        let expected: Vec<_> = records
            .iter()
            .map(|record| {
                (
                    record.key.map(<[u8]>::to_vec),
                    record.value.map(<[u8]>::to_vec),
                    record.headers.as_encoded().to_vec(),
                    record.timestamp_ms,
                )
            })
            .collect();
        let mut window = Window::default();
        for start in 0..30 {
            for end in start..=30 {
                let seen = read(&window.of(&columns, &(start..end)));
                assert_eq!(seen, expected[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_small_batch_is_one_piece_and_an_empty_one_none() {
        assert!(pieces(&columns(&[])).is_empty());
        let columns = columns(&[RecordRef::new(0, b"1"), RecordRef::new(0, b"2")]);
        assert_eq!(pieces(&columns).as_slice(), &[Range { start: 0, end: 2 }]);
    }

    #[test]
    fn a_large_batch_is_cut_without_gaps_and_below_the_limit() {
        let large = vec![0; CALL_BYTES_MAX + 1];
        let mut records = vec![RecordRef::new(0, &large[..CALL_BYTES_MAX / 3]); 10];
        records[4].value = Some(&large);
        records[7].key = Some(&large[..60_000]);
        let columns = columns(&records);
        let pieces = pieces(&columns);
        let mut next = 0;
        for piece in &pieces {
            assert_eq!(piece.start, next);
            next = piece.end;
            let bytes: usize = piece.clone().map(|index| columns.record(index).len()).sum();
            assert!(bytes <= CALL_BYTES_MAX || piece.len() == 1, "{piece:?}");
        }
        assert_eq!(next, 10);
        assert!(pieces.contains(&(4..5)));
    }
}
