//! Answers of plugins made of any bytes, for the fuzz target: what a plugin returns crosses as columns
//! and positions, and only the checks stand between them and the batch.
use flumen_protocol::batch::{BatchBuilder, Codec, PushError};

use super::{
    returned::{check_transformed, check_verdicts, record},
    wit::{
        filtering::Verdicts,
        transforming::{Misplaced, Routes, Transformed},
        types::{ColumnResult, Failure, RecordsResult},
    },
};

/// Ends, bytes, validity.
type Column = (Vec<u32>, Vec<u8>, Option<Vec<u8>>);

/// Count, keys, values, headers, and the base and the deltas of timestamps.
type Records = (
    u32,
    Option<Column>,
    Column,
    Option<Column>,
    i64,
    Option<Vec<u32>>,
);

/// How many records were asked about; the verdicts; the records returned; topics and targets; failures
/// by index and position.
type Sketch = (
    u16,
    Vec<u8>,
    Records,
    Option<(Vec<String>, Vec<u32>)>,
    Vec<(u32, u32)>,
);

/// Checks an answer, and makes a batch of one that passes. Whether one did.
///
/// # Panics
/// When an answer passes, and a record of it does not fit a batch.
pub(crate) fn answer_for_fuzzing(bytes: &[u8]) -> bool {
    let Ok((asked, keep, records, routes, failures)) = postcard::from_bytes::<Sketch>(bytes) else {
        return false;
    };
    let asked = usize::from(asked);
    let failure = |index| Failure {
        index,
        message: String::new(),
    };
    let verdicts = Verdicts {
        keep,
        failures: failures.iter().map(|(index, _)| failure(*index)).collect(),
    };
    let has_verdicts = check_verdicts(&verdicts, asked).is_ok();
    let transformed = Transformed {
        records: records_of(records),
        routes: routes.map(|(topics, targets)| Routes { topics, targets }),
        failures: failures
            .iter()
            .map(|(index, position)| Misplaced {
                failure: failure(*index),
                position: *position,
            })
            .collect(),
    };
    if check_transformed(&transformed, asked).is_err() {
        return has_verdicts;
    }
    let mut builder = BatchBuilder::new();
    for index in 0..transformed.records.count as usize {
        match builder.push(&record(&transformed.records, index)) {
            Ok(()) => {}
            Err(PushError::BatchFull) => break,
            Err(error) => panic!("record {index} of an answer that passes: {error}"),
        }
    }
    let batch = builder.build(Codec::None);
    batch.is_ok_and(|batch| batch.columns().is_ok())
}

fn records_of((count, keys, values, headers, base, deltas): Records) -> RecordsResult {
    let column = |(ends, bytes, validity): Column| ColumnResult {
        ends,
        bytes,
        validity,
    };
    RecordsResult {
        count,
        keys: keys.map(column),
        values: column(values),
        headers: headers.map(column),
        timestamp_base: base,
        timestamp_deltas: deltas,
    }
}
