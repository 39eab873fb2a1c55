//! What must hold for a log, whatever happens to it.

use std::sync::Arc;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    ids::{Offset, PartitionId, TopicId},
};

use super::*;
use crate::disk::{CrashKeep, SimulatedDisk};

const DIR: &str = "/logs";

fn partition(index: u32) -> PartitionId {
    PartitionId {
        topic: TopicId(7),
        index,
    }
}

fn manual() -> LogStoreOptions {
    LogStoreOptions {
        flush_mode: FlushMode::Manual,
        ..LogStoreOptions::default()
    }
}

fn open_store(disk: &SimulatedDisk, options: LogStoreOptions) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), DIR, options).unwrap()
}

/// A batch of `values`, each with its offset as timestamp.
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

#[test]
fn what_is_appended_is_read_from_memory_from_disk_and_after_a_crash() {
    let disk = SimulatedDisk::new();
    let store = open_store(
        &disk,
        LogStoreOptions {
            tail_bytes_max: 0,
            ..manual()
        },
    );
    let options = LogOptions {
        segment_bytes: 1000,
        index_interval_bytes: 200,
        ..LogOptions::default()
    };
    let log = store
        .open_partition(partition(0), options, &LogCheckpoint::default())
        .unwrap();
    let batches: Vec<_> = (0..50)
        .map(|n| batch(n * 2, &[b"a", &[n as u8; 40]]))
        .collect();
    for batch in &batches {
        log.append(batch.clone());
    }
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), batches);
    log.flush().unwrap();
    assert_eq!(store.unflushed_bytes(), 0);
    assert_eq!(store.tail_bytes(), 0);
    for offset in 0..100 {
        let found = read_all(&log.reader(), Offset(offset)).unwrap();
        assert_eq!(found, batches[offset as usize / 2..], "from {offset}");
    }
    let checkpoint = log.checkpoint().unwrap();
    assert!(checkpoint.segments.len() > 5);

    let disk = disk.crash(CrashKeep::Nothing);
    let store = open_store(&disk, manual());
    let log = store
        .open_partition(partition(0), options, &checkpoint)
        .unwrap();
    for offset in 0..100 {
        let found = read_all(&log.reader(), Offset(offset)).unwrap();
        assert_eq!(found, batches[offset as usize / 2..], "from {offset}");
    }
}
