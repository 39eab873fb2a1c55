//! Checks what a plugin has returned before anything is made of it, and reads records out of it.
use flumen_protocol::{
    batch::{Headers, RecordRef},
    limits::{
        HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_PER_RECORD_MAX, KEY_BYTES_MAX,
        RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX,
    },
    size::Size,
    topic::TopicName,
};

use super::{
    error::CallError,
    wit::{
        filtering::Verdicts,
        transforming::{Routes, Transformed},
        types::{ColumnResult, Failure, RecordsResult},
    },
};

/// Checks the verdicts on `count` records.
pub(super) fn check_verdicts(verdicts: &Verdicts, count: usize) -> Result<(), CallError> {
    let bytes = count.div_ceil(8);
    if verdicts.keep.len() != bytes {
        return misfit(format!(
            "a bitmap of {} bytes for {count} records, which need {bytes}",
            verdicts.keep.len()
        ));
    }
    check_failures(&verdicts.failures, count)
}

/// Checks what became of `count` records; names the topics that some go to.
pub(super) fn check_transformed(
    transformed: &Transformed,
    count: usize,
) -> Result<Vec<TopicName>, CallError> {
    check_records(&transformed.records)?;
    let returned = transformed.records.count;
    check_failures(transformed.failures.iter().map(|at| &at.failure), count)?;
    let failures = &transformed.failures;
    let last = failures.last().map_or(0, |at| at.position);
    if !failures.is_sorted_by_key(|at| at.position) || last > returned {
        return misfit(format!(
            "failures at positions that fall or lie beyond its {returned} records"
        ));
    }
    transformed
        .routes
        .as_ref()
        .map_or(Ok(Vec::new()), |routes| check_routes(routes, returned))
}

fn check_failures<'a>(
    failures: impl IntoIterator<Item = &'a Failure>,
    count: usize,
) -> Result<(), CallError> {
    let mut next = 0;
    for failure in failures {
        let index = failure.index as usize;
        if index < next || index >= count {
            return misfit(format!(
                "a failure of record {index} of {count}, out of order or out of range"
            ));
        }
        next = index + 1;
    }
    Ok(())
}

fn check_routes(routes: &Routes, returned: u32) -> Result<Vec<TopicName>, CallError> {
    if routes.targets.len() != returned as usize {
        return misfit(format!(
            "{} targets for {returned} records",
            routes.targets.len()
        ));
    }
    let topics = routes.topics.len();
    if let Some(target) = routes
        .targets
        .iter()
        .find(|target| **target as usize > topics)
    {
        return misfit(format!("a target {target}, where it names {topics} topics"));
    }
    let names = routes.topics.iter().map(TopicName::new);
    names
        .collect::<Result<_, _>>()
        .map_err(|error| CallError::Misfit(error.to_string()))
}

fn check_records(records: &RecordsResult) -> Result<(), CallError> {
    if records.count > RECORDS_PER_BATCH_MAX {
        return misfit(format!(
            "{} records, over the limit of {RECORDS_PER_BATCH_MAX} of a batch",
            records.count
        ));
    }
    let count = records.count as usize;
    check_column("values", &records.values, count, RECORD_BYTES_MAX)?;
    if let Some(keys) = &records.keys {
        check_column("keys", keys, count, KEY_BYTES_MAX)?;
    }
    if let Some(headers) = &records.headers {
        check_column("headers", headers, count, RECORD_BYTES_MAX)?;
        check_headers(headers, count)?;
    }
    if let Some(deltas) = &records.timestamp_deltas
        && deltas.len() != count
    {
        return misfit(format!("{} timestamps for {count} records", deltas.len()));
    }
    if let Some(index) = (0..count).find(|index| record(records, *index).len() > RECORD_BYTES_MAX) {
        return misfit(format!(
            "record {index} of more than {}",
            Size::of(RECORD_BYTES_MAX)
        ));
    }
    Ok(())
}

fn check_column(
    name: &str,
    column: &ColumnResult,
    count: usize,
    bytes_max: usize,
) -> Result<(), CallError> {
    if column.ends.len() != count {
        return misfit(format!(
            "{name} with {} positions for {count} records",
            column.ends.len()
        ));
    }
    let mut before = 0;
    let (mut falls, mut longest) = (false, 0);
    for end in &column.ends {
        falls |= *end < before;
        longest = longest.max(end.wrapping_sub(before));
        before = *end;
    }
    if falls || before as usize != column.bytes.len() {
        return misfit(format!(
            "{name} whose positions fall, or do not end at its {} bytes",
            column.bytes.len()
        ));
    }
    if longest as usize > bytes_max {
        return misfit(format!(
            "{name} with one of {}, over the limit of {}",
            Size::of(longest as usize),
            Size::of(bytes_max)
        ));
    }
    match &column.validity {
        Some(validity) if validity.len() != count.div_ceil(8) => misfit(format!(
            "{name} with a validity of {} bytes for {count} records",
            validity.len()
        )),
        _ => Ok(()),
    }
}

fn check_headers(column: &ColumnResult, count: usize) -> Result<(), CallError> {
    for index in 0..count {
        let headers = Headers::from_encoded(part(column, index));
        let fits = headers.is_valid()
            && headers.into_iter().count() <= HEADERS_PER_RECORD_MAX
            && headers.into_iter().all(|header| {
                header.name.len() <= HEADER_NAME_BYTES_MAX
                    && header.value.len() <= HEADER_VALUE_BYTES_MAX
            });
        if !fits {
            return misfit(format!(
                "record {index} with headers that are not of the encoding, or over a limit \
                 ({HEADERS_PER_RECORD_MAX} headers, names of {}, values of {})",
                Size::of(HEADER_NAME_BYTES_MAX),
                Size::of(HEADER_VALUE_BYTES_MAX)
            ));
        }
    }
    Ok(())
}

/// The record at `index` of what [`check_transformed`] has passed.
pub(super) fn record(records: &RecordsResult, index: usize) -> RecordRef<'_> {
    let delta = records
        .timestamp_deltas
        .as_ref()
        .map_or(0, |deltas| deltas[index]);
    RecordRef {
        timestamp_ms: records.timestamp_base.saturating_add(delta.into()),
        key: records
            .keys
            .as_ref()
            .and_then(|keys| valid_part(keys, index)),
        value: valid_part(&records.values, index),
        headers: Headers::from_encoded(
            records
                .headers
                .as_ref()
                .map_or(&[], |headers| part(headers, index)),
        ),
    }
}

fn valid_part(column: &ColumnResult, index: usize) -> Option<&[u8]> {
    let valid = column
        .validity
        .as_ref()
        .is_none_or(|bits| bits[index / 8] & (1 << (index % 8)) != 0);
    valid.then(|| part(column, index))
}

fn part(column: &ColumnResult, index: usize) -> &[u8] {
    let start = if index == 0 {
        0
    } else {
        column.ends[index - 1]
    };
    &column.bytes[start as usize..column.ends[index] as usize]
}

fn misfit<T>(text: String) -> Result<T, CallError> {
    Err(CallError::Misfit(text))
}
