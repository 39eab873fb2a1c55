//! A full disk: nothing is lost, reading goes on, and so does writing once there is space.

use super::{basics::wait_until, *};
use crate::disk::FaultPlan;

fn capacity(bytes: u64) -> FaultPlan {
    FaultPlan {
        capacity_bytes: Some(bytes),
        ..FaultPlan::default()
    }
}

#[test]
fn batches_stay_in_memory_while_the_disk_is_full_and_are_written_when_it_is_not() {
    for bytes in (0..3000).step_by(100) {
        let disk = SimulatedDisk::new();
        let store = open_store(&disk, manual());
        let log = open_new(&store, small());
        let all = batches(50);
        disk.set_faults(capacity(bytes));
        for batch in &all {
            log.append(batch.clone());
        }
        let error = log.flush().unwrap_err();
        assert!(matches!(error, FlushError::NoSpace { .. }), "{error}");
        let error = log.checkpoint().unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(store.unflushed_bytes() > 0);
        assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all);
        disk.set_faults(FaultPlan::default());
        let checkpoint = log.checkpoint().unwrap();
        assert_eq!(store.unflushed_bytes(), 0);
        let disk = disk.crash(crate::disk::CrashKeep::Nothing);
        let store = open_store(&disk, manual());
        let log = store
            .open_partition(partition(0), small(), &checkpoint)
            .unwrap();
        assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all);
    }
}

#[test]
fn the_flusher_says_so_and_tries_again() {
    let disk = SimulatedDisk::new();
    let options = LogStoreOptions {
        flush_mode: FlushMode::Background,
        ..manual()
    };
    let store = open_store(&disk, options);
    let log = open_new(&store, small());
    disk.set_faults(capacity(0));
    let all = batches(20);
    append_all(&log, &all);
    wait_until(|| store.degraded().is_some());
    let text = store.degraded().unwrap();
    assert!(
        text.contains("no space left") && text.contains("p0-"),
        "{text}"
    );
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all);
    disk.set_faults(FaultPlan::default());
    log.log.store.flusher.retry_now();
    wait_until(|| store.degraded().is_none() && store.unflushed_bytes() == 0);
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all);
}

#[test]
fn a_partition_that_cannot_be_written_holds_up_no_other() {
    let disk = SimulatedDisk::new();
    let options = LogStoreOptions {
        flush_mode: FlushMode::Background,
        ..manual()
    };
    let store = open_store(&disk, options);
    let failing = open_new(&store, small());
    let all = batches(40);
    append_all(&failing, &all[..1]);
    wait_until(|| store.unflushed_bytes() == 0);
    // The next segment cannot be made.
    disk.remove_dir_all(&std::path::Path::new(DIR).join("7"))
        .unwrap();
    append_all(&failing, &all[1..]);
    wait_until(|| store.degraded_partitions().is_some());
    let other = PartitionId {
        topic: TopicId(8),
        index: 0,
    };
    let other = store.open_partition(other, small(), &LogCheckpoint::default());
    let other = other.unwrap();
    let unflushed = |log: &PartitionLog| log.log.state.lock().tail.unflushed_bytes();
    append_all(&other, &all);
    wait_until(|| unflushed(&other) == 0);
    assert!(unflushed(&failing) > 0);
    assert_eq!(store.degraded(), None, "others can be written");
    assert_eq!(store.degraded_partition(other.id()), None);
    let text = store.degraded_partition(failing.id()).unwrap();
    assert!(text.contains("p0-"), "{text}");
    // It is tried again all the same.
    disk.create_dir_all(&std::path::Path::new(DIR).join("7"))
        .unwrap();
    wait_until(|| store.unflushed_bytes() == 0 && store.degraded_partitions().is_none());
    assert_eq!(store.degraded_partition(failing.id()), None);
    append_all(&failing, &[batch(80, &[b"later"])]);
    wait_until(|| store.unflushed_bytes() == 0);
}

#[test]
fn a_failed_write_is_tried_again_and_leaves_no_gap() {
    for fail_write_in in 0..8 {
        let disk = SimulatedDisk::new();
        let store = open_store(&disk, manual());
        let log = open_new(&store, small());
        disk.set_faults(FaultPlan {
            fail_write_in: Some(fail_write_in),
            ..FaultPlan::default()
        });
        let all = batches(50);
        append_all(&log, &all);
        while log.flush().is_err() {}
        assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), all);
    }
}

#[test]
fn retention_frees_a_full_disk_without_a_checkpoint() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let all = batches(50);
    append_all(&log, &all[..30]);
    log.flush().unwrap();
    disk.set_faults(capacity(0));
    append_all(&log, &all[30..]);
    assert!(log.flush().is_err());
    log.configure(LogOptions {
        retention_bytes: Some(0),
        ..small()
    });
    disk.set_faults(capacity(4200));
    assert!(log.enforce_retention(0).unwrap() > 3000);
    log.flush().unwrap();
    let start = log.reader().start_offset();
    let found = read_all(&log.reader(), start).unwrap();
    assert_eq!(found, all[start.0 as usize / 2..]);
}

#[test]
fn a_log_removed_ahead_of_the_checkpoint_is_empty_after_a_crash_and_then_gone() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let all = batches(60);
    append_all(&log, &all[..30]);
    let checkpoint = log.checkpoint().unwrap();
    append_all(&log, &all[30..]);
    log.flush().unwrap();
    disk.set_faults(capacity(0));
    let before = disk.used_bytes();
    store.remove_ahead(partition(0)).unwrap();
    assert_eq!(disk.used_bytes(), 0, "of {before}");
    assert_eq!(store.remove_unopened(), 0, "the mark is no leftover");

    let disk = disk.crash(crate::disk::CrashKeep::Nothing);
    let store = open_store(&disk, manual());
    let log = store
        .open_partition(partition(0), small(), &checkpoint)
        .unwrap();
    assert_eq!(log.reader().start_offset(), checkpoint.end_offset);
    // What came after the checkpoint comes again, and then the end of the partition.
    append_all(&log, &all[30..]);
    assert_eq!(
        read_all(&log.reader(), checkpoint.end_offset).unwrap(),
        all[30..]
    );
    log.flush().unwrap();
    store.remove_ahead(partition(0)).unwrap();
    store.remove_ahead(partition(0)).unwrap();
    store.remove(partition(0));
    assert_eq!(files(&disk), Vec::<String>::new());
}
