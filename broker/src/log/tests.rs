//! What must hold for a log, whatever happens to it.

use std::sync::Arc;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    ids::{Offset, PartitionId, TopicId},
};

use super::*;
use crate::disk::{Disk, SimulatedDisk};

mod basics;
mod blocks;
mod compaction;
mod damage;
mod model;
mod race;
mod recovery;
mod retention;
mod scale;
mod space;
mod time;

const DIR: &str = "/logs";

fn partition(index: u32) -> PartitionId {
    PartitionId {
        topic: TopicId(7),
        index,
    }
}

/// Everything by hand, and nothing in memory that need not be.
fn manual() -> LogStoreOptions {
    LogStoreOptions {
        flush_mode: FlushMode::Manual,
        tail_bytes_max: 0,
        ..LogStoreOptions::default()
    }
}

/// Small segments with several index entries each.
fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 1000,
        index_interval_bytes: 200,
        ..LogOptions::default()
    }
}

fn open_store(disk: &SimulatedDisk, options: LogStoreOptions) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), DIR, options).unwrap()
}

fn open_new(store: &LogStore, options: LogOptions) -> PartitionLog {
    store
        .open_partition(partition(0), options, &LogCheckpoint::default())
        .unwrap()
}

/// A batch of `values`, each with its offset as timestamp, appended at the time `base`.
fn batch(base: u64, values: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (index, value) in values.iter().enumerate() {
        let time = (base + index as u64) as i64;
        builder.push(&RecordRef::new(time, value)).unwrap();
    }
    builder
        .build(Codec::None)
        .unwrap()
        .placed(Offset(base), base)
}

/// `count` batches of two records each.
fn batches(count: u64) -> Vec<Batch> {
    (0..count)
        .map(|n| batch(n * 2, &[b"a", &[n as u8; 40]]))
        .collect()
}

/// All batches from `offset` on, by as many reads as it takes.
fn read_all(reader: &LogReader, mut offset: Offset) -> Result<Vec<Batch>, ReadError> {
    let mut all: Vec<Batch> = Vec::new();
    loop {
        let batches = match reader.read(offset, 1000, reader.end_offset()) {
            ReadOutcome::Memory(batches) => batches,
            ReadOutcome::Disk(read) => read.run()?,
            ReadOutcome::End => return Ok(all),
            ReadOutcome::OutOfRange { start, end } => {
                return Err(ReadError::OutOfRange { start, end });
            }
        };
        match batches.last() {
            Some(last) => offset = last.end_offset(),
            None => return Ok(all),
        }
        all.extend(batches);
    }
}

/// The names of all files in the topic's directory.
fn files(disk: &SimulatedDisk) -> Vec<String> {
    let dir = std::path::Path::new(DIR).join("7");
    let entries = disk.list(&dir).unwrap_or_default();
    let names = entries.iter().map(|entry| entry.name().unwrap().to_owned());
    names.collect()
}

/// Those with a certain extension.
fn files_of(disk: &SimulatedDisk, extension: &str) -> Vec<String> {
    let of_kind = |name: &String| name.rsplit('.').next() == Some(extension);
    files(disk).into_iter().filter(of_kind).collect()
}

fn append_all(log: &PartitionLog, batches: &[Batch]) {
    for batch in batches {
        log.append(batch.clone());
    }
}
