//! Opening a log again: exactly what the checkpoint promises, or an error that says what is gone.

use std::path::Path;

use super::*;
use crate::disk::CrashKeep;

fn reopen(disk: &SimulatedDisk, checkpoint: &LogCheckpoint) -> Result<PartitionLog, OpenError> {
    let store = open_store(disk, manual());
    let opened = store.open_partition(partition(0), small(), checkpoint);
    // The store may go: the log keeps what it needs.
    opened.inspect(|_| store.shutdown())
}

/// A log of `count` batches, and its checkpoint.
fn written(disk: &SimulatedDisk, count: u64) -> (LogStore, PartitionLog, LogCheckpoint) {
    let store = open_store(disk, manual());
    let log = open_new(&store, small());
    append_all(&log, &batches(count));
    let checkpoint = log.checkpoint().unwrap();
    (store, log, checkpoint)
}

#[test]
fn what_came_after_the_checkpoint_is_cut_off_and_can_be_appended_again() {
    for keep in [
        CrashKeep::Nothing,
        CrashKeep::Everything,
        CrashKeep::Random(3),
    ] {
        let disk = SimulatedDisk::new();
        let (_store, log, checkpoint) = written(&disk, 20);
        let all = batches(60);
        append_all(&log, &all[20..]);
        log.flush().unwrap();

        let disk = disk.crash(keep);
        let log = reopen(&disk, &checkpoint).unwrap();
        assert_eq!(log.reader().end_offset(), Offset(40));
        assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all[..20]);
        let segments = files_of(&disk, "segment").len();
        assert_eq!(
            segments,
            checkpoint.segments.len(),
            "those begun later are gone"
        );
        append_all(&log, &all[20..]);
        log.flush().unwrap();
        for offset in 0..120 {
            let found = read_all(&log.reader(), Offset(offset)).unwrap();
            assert_eq!(found, all[offset as usize / 2..], "from {offset}, {keep:?}");
        }
    }
}

#[test]
fn a_checkpoint_may_be_of_a_moment_that_has_passed() {
    let all = batches(60);
    for end in 0..=60 {
        let disk = SimulatedDisk::new();
        let (store, log, _) = written(&disk, 60);
        let checkpoint = store
            .checkpoint(&[(log, Offset(end * 2))])
            .unwrap()
            .remove(0);
        assert_eq!(checkpoint.end_offset, Offset(end * 2));
        let disk = disk.crash(CrashKeep::Nothing);
        let log = reopen(&disk, &checkpoint).unwrap();
        let found = read_all(&log.reader(), Offset(0)).unwrap();
        assert_eq!(found, all[..end as usize]);
        append_all(&log, &all[end as usize..]);
        log.flush().unwrap();
        assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all, "to {end}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let disk = SimulatedDisk::new();
    let (_store, _log, checkpoint) = written(&disk, 30);
    let path = Path::new(DIR).join("7/p0-00000000000000000000-0.segment");
    let before = files(&disk);
    disk.remove_file(&path).unwrap();
    let error = reopen(&disk, &checkpoint).unwrap_err();
    assert!(matches!(&error, OpenError::Missing { path: p, .. } if *p == path));
    assert!(
        error
            .to_string()
            .contains("p0-00000000000000000000-0.segment")
    );
    assert_eq!(
        files(&disk).len(),
        before.len() - 1,
        "nothing else was removed"
    );
}

#[test]
fn a_file_cut_at_any_byte_is_refused_with_the_position() {
    let disk = SimulatedDisk::new();
    let (_store, _log, checkpoint) = written(&disk, 30);
    let last = checkpoint.segments.last().unwrap();
    let name = format!("7/p0-{:020}-0.segment", last.base_offset);
    let path = Path::new(DIR).join(name);
    for len in (0..last.bytes).rev() {
        disk.open(&path).unwrap().set_len(len).unwrap();
        match reopen(&disk, &checkpoint) {
            Err(OpenError::Short {
                path: p, len: l, ..
            }) => assert_eq!((&p, l), (&path, len)),
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn indexes_are_rebuilt_when_they_are_missing_or_damaged() {
    let all = batches(60);
    for damage in [false, true] {
        let disk = SimulatedDisk::new();
        let (_store, _log, checkpoint) = written(&disk, 60);
        let mut indexes = 0;
        for name in &files_of(&disk, "index") {
            let path = Path::new(DIR).join("7").join(name);
            indexes += 1;
            if damage {
                disk.open(&path).unwrap().write_all_at(&[9; 3], 20).unwrap();
            } else {
                disk.remove_file(&path).unwrap();
            }
        }
        assert!(indexes > 3);
        let log = reopen(&disk, &checkpoint).unwrap();
        for offset in 0..120 {
            let found = read_all(&log.reader(), Offset(offset)).unwrap();
            assert_eq!(found, all[offset as usize / 2..], "from {offset}");
        }
        let rebuilt = files_of(&disk, "index").len();
        assert!(rebuilt >= indexes);
    }
}

#[test]
fn files_of_partitions_that_nobody_opens_are_removed() {
    let disk = SimulatedDisk::new();
    let (_store, _log, checkpoint) = written(&disk, 30);
    let store = open_store(&disk, manual());
    assert_eq!(store.remove_unopened(), 1);
    assert!(disk.list(Path::new(DIR)).unwrap().is_empty());
    assert!(matches!(
        store.open_partition(partition(0), small(), &checkpoint),
        Err(OpenError::Missing { .. })
    ));
}

#[test]
fn a_failed_sync_of_the_whole_file_system_is_final_too() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let logs: Vec<_> = (0..=SYNC_FILES_MAX as u32)
        .map(|index| {
            let none = LogCheckpoint::default();
            let log = store
                .open_partition(partition(index), small(), &none)
                .unwrap();
            log.append(batch(0, &[b"a"]));
            (log, Offset(1))
        })
        .collect();
    store.flush_all().unwrap();
    disk.set_faults(crate::disk::FaultPlan {
        fail_sync_in: Some(0),
        ..Default::default()
    });
    for _ in 0..2 {
        let error = store.checkpoint(&logs).unwrap_err();
        assert!(matches!(error, CheckpointError::Failed(_)), "{error}");
    }
}

#[test]
fn a_failed_sync_is_final() {
    let disk = SimulatedDisk::new();
    let (store, log, _) = written(&disk, 10);
    log.append(batch(20, &[b"a"]));
    disk.set_faults(crate::disk::FaultPlan {
        fail_sync_in: Some(0),
        ..Default::default()
    });
    let error = log.checkpoint().unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    let error = log.checkpoint().unwrap_err();
    assert!(matches!(error, CheckpointError::Failed(_)), "{error}");
    assert!(store.degraded().unwrap().contains("sync"));
    assert_eq!(
        read_all(&log.reader(), Offset(0)).unwrap().len(),
        11,
        "reads go on"
    );
}
