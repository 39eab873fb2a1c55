//! Readers that race with writers, retention, compaction and removal: never garbage.

use std::sync::atomic::{AtomicBool, Ordering};

use flumen_protocol::topic::Cleanup;
use tokio_util::sync::CancellationToken;

use super::*;

const BATCHES: u64 = 3000;

/// A batch whose content says what it must be.
fn marked(base: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    for offset in base..base + 3 {
        let key = [(offset % 17) as u8];
        let value = [offset.to_le_bytes(); 5].concat();
        let record = RecordRef {
            timestamp_ms: offset as i64,
            key: Some(&key),
            value: Some(&value),
            ..RecordRef::default()
        };
        builder.push(&record).unwrap();
    }
    builder
        .build(Codec::None)
        .unwrap()
        .placed(Offset(base), base)
}

fn check(batches: &[Batch]) {
    for batch in batches {
        let columns = batch.columns().unwrap();
        for index in 0..columns.len() {
            let offset = columns.offset(index).0;
            let value = columns.record(index).value.unwrap();
            assert_eq!(value, [offset.to_le_bytes(); 5].concat());
        }
    }
}

/// Reads whatever is there, from wherever, until `done`.
fn read_until(reader: &LogReader, done: &AtomicBool, seed: u64) -> u64 {
    let (mut offset, mut seen) = (Offset(0), 0);
    while !done.load(Ordering::Relaxed) {
        let end = reader.end_offset();
        let batches = match reader.read(offset, 700 + seed as usize * 300, end) {
            ReadOutcome::Memory(batches) => batches,
            ReadOutcome::Disk(read) => match read.run() {
                Ok(batches) => batches,
                Err(ReadError::OutOfRange { start, .. }) => {
                    offset = start;
                    continue;
                }
                Err(error) => panic!("{error}"),
            },
            ReadOutcome::End => {
                offset = reader.start_offset();
                continue;
            }
            ReadOutcome::OutOfRange { start, .. } => {
                offset = start;
                continue;
            }
        };
        check(&batches);
        seen += batches.len() as u64;
        if let Some(last) = batches.last() {
            assert!(last.end_offset() > offset);
            offset = last.end_offset();
        }
        if seen % (97 + seed) == 0 {
            let time = (offset.0 / 2) as i64;
            reader.offset_for_time(time).unwrap();
        }
    }
    seen
}

fn race(cleanup: Cleanup) {
    let disk = SimulatedDisk::new();
    let store_options = LogStoreOptions {
        tail_bytes_max: 20_000,
        open_files_max: 3,
        flush_mode: FlushMode::Background,
        ..LogStoreOptions::default()
    };
    let store = open_store(&disk, store_options);
    let options = LogOptions {
        cleanup,
        retention_bytes: Some(30_000),
        retention_age_ms: None,
        ..small()
    };
    let log = open_new(&store, options);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|seed| {
                let (reader, done) = (log.reader(), &done);
                scope.spawn(move || read_until(&reader, done, seed))
            })
            .collect();
        for n in 0..BATCHES {
            log.append(marked(n * 3));
            match n % 100 {
                10 | 60 => log.flush().unwrap(),
                20 => drop(log.enforce_retention(n).unwrap()),
                40 => drop(log.compact(n, &CancellationToken::new()).unwrap()),
                80 => {
                    let checkpoint = log.checkpoint().unwrap();
                    log.checkpoint_saved(&checkpoint);
                }
                _ => {}
            }
        }
        let damaged = store.damaged();
        store.remove(partition(0));
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        assert_eq!(damaged, []);
    });
    assert!(files(&disk).is_empty());
}

#[test]
fn readers_race_with_retention() {
    race(Cleanup::Delete);
}

#[test]
fn readers_race_with_compaction() {
    race(Cleanup::Compact);
}
