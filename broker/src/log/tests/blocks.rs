//! Large batches, whose bodies begin at whole blocks of the file, among small ones.

use std::path::Path;

use super::*;
use crate::disk::{BLOCK_BYTES, CrashKeep, read_file};

/// Bytes of each batch's value; bodies are a little larger.
const SIZES: [usize; 9] = [5, 70_000, 200_000, 1, 66_000, 65_400, 65_600, 400_000, 30];

/// Several batches to a segment, and some too large for one.
fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 350_000,
        index_interval_bytes: 1000,
        ..LogOptions::default()
    }
}

/// The batches of [`SIZES`], again and again, one record each.
fn of_all_sizes(count: u64) -> Vec<Batch> {
    let value = |n: u64| {
        let len = SIZES[n as usize % SIZES.len()];
        (0..len)
            .map(|at| (at as u64 * 7 + n) as u8)
            .collect::<Vec<_>>()
    };
    (0..count).map(|n| batch(n, &[&value(n)])).collect()
}

fn check(log: &PartitionLog, all: &[Batch]) {
    for offset in 0..all.len() {
        let found = read_all(&log.reader(), Offset(offset as u64)).unwrap();
        assert!(found == all[offset..], "from {offset}");
        // Each record has its offset as timestamp.
        let at = log.reader().offset_for_time(offset as i64).unwrap();
        assert_eq!(at, Some(Offset(offset as u64)));
    }
}

#[test]
fn large_batches_begin_at_blocks_and_are_found_among_small_ones() {
    for flush_each in [false, true] {
        let disk = SimulatedDisk::new();
        let store = open_store(&disk, manual());
        let log = open_new(&store, options());
        let all = of_all_sizes(40);
        for batch in &all {
            log.append(batch.clone());
            if flush_each {
                log.flush().unwrap();
            }
        }
        log.flush().unwrap();
        check(&log, &all);

        let checkpoint = log.checkpoint().unwrap();
        for name in files_of(&disk, "index") {
            disk.remove_file(&Path::new(DIR).join("7").join(name))
                .unwrap();
        }
        store.shutdown();
        let disk = disk.crash(CrashKeep::Nothing);
        let store = open_store(&disk, manual());
        let log = store.open_partition(partition(0), options(), &checkpoint);
        check(&log.unwrap(), &all);
    }
}

#[test]
fn the_body_of_a_large_batch_lies_at_a_block_and_damage_in_it_is_seen() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, options());
    let all = of_all_sizes(3);
    append_all(&log, &all);
    log.flush().unwrap();
    let path = Path::new(DIR)
        .join("7")
        .join(&files_of(&disk, "segment")[0]);
    let bytes = read_file(&disk, &path, 1 << 20).unwrap().unwrap();
    for batch in &all[1..] {
        let mut at_blocks = (0..bytes.len()).step_by(BLOCK_BYTES);
        let at = at_blocks.find(|&at| bytes[at..].starts_with(batch.body()));
        let at = at.unwrap();

        let file = disk.open(&path).unwrap();
        file.write_all_at(&[!bytes[at + 100]], at as u64 + 100)
            .unwrap();
        let damaged = read_all(&log.reader(), batch.base_offset());
        assert!(matches!(damaged, Err(ReadError::Damaged { .. })));
        file.write_all_at(&[bytes[at + 100]], at as u64 + 100)
            .unwrap();
        // The zeros between front and body carry nothing.
        file.write_all_at(&[9], at as u64 - 1).unwrap();
        assert!(read_all(&log.reader(), batch.base_offset()).is_ok());
    }
}
