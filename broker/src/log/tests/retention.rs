//! Retention by age and by size.

use super::*;
use crate::disk::{CrashKeep, FaultPlan};

/// 50 batches, appended at the times 0, 2, ..., 98, in several segments.
fn written(disk: &SimulatedDisk, options: LogOptions) -> (LogStore, PartitionLog) {
    let store = open_store(disk, manual());
    let log = open_new(&store, options);
    append_all(&log, &batches(50));
    log.flush().unwrap();
    (store, log)
}

#[test]
fn a_segment_goes_when_its_last_batch_is_old_enough_and_not_before() {
    for now in (1000..=1110).step_by(3) {
        let disk = SimulatedDisk::new();
        let options = LogOptions {
            retention_age_ms: Some(1000),
            ..small()
        };
        let (_store, log) = written(&disk, options);
        let segments = log.checkpoint().unwrap().segments;
        log.enforce_retention(now).unwrap();
        let kept = segments.iter().find(|s| now - s.last_append_ms < 1000);
        let start = kept.map_or(Offset(100), |segment| segment.base_offset);
        assert_eq!(log.reader().start_offset(), start, "at {now}");
        let found = read_all(&log.reader(), start).unwrap();
        assert_eq!(found, batches(50)[start.0 as usize / 2..]);
        assert!(matches!(
            log.reader()
                .read(Offset(start.0.wrapping_sub(1)), 1, Offset(100)),
            ReadOutcome::OutOfRange { .. }
        ));
        // A log that lost everything goes on where it was.
        log.append(batch(100, &[b"new"]));
        log.flush().unwrap();
        assert_eq!(read_all(&log.reader(), Offset(100)).unwrap().len(), 1);
    }
}

#[test]
fn by_size_at_least_the_wanted_bytes_are_kept_and_less_than_a_segment_more() {
    for wanted in (0..9000).step_by(500) {
        let disk = SimulatedDisk::new();
        let options = LogOptions {
            retention_bytes: Some(wanted),
            retention_age_ms: None,
            ..small()
        };
        let (_store, log) = written(&disk, options);
        let before = log.reader().size_bytes();
        let freed = log.enforce_retention(0).unwrap();
        let kept = log.reader().size_bytes();
        assert_eq!(kept, before - freed);
        assert!(kept >= wanted.min(before), "{kept} of {wanted}");
        assert!(kept < wanted + 1000 || freed == 0, "{kept} of {wanted}");
    }
}

#[test]
fn what_is_for_ever_stays() {
    let disk = SimulatedDisk::new();
    let options = LogOptions {
        retention_age_ms: None,
        ..small()
    };
    let (_store, log) = written(&disk, options);
    assert_eq!(log.enforce_retention(u64::MAX).unwrap(), 0);
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap().len(), 50);
}

#[test]
fn a_segment_that_is_old_but_not_full_is_sealed() {
    let disk = SimulatedDisk::new();
    let options = LogOptions {
        segment_bytes: 1 << 20,
        retention_age_ms: Some(1_000_000),
        ..LogOptions::default()
    };
    let (_store, log) = written(&disk, options);
    let sealed = || log.checkpoint().unwrap().segments[0].sealed;
    log.enforce_retention(249_999).unwrap();
    assert!(!sealed());
    log.enforce_retention(250_000).unwrap();
    assert!(sealed());
}

#[test]
fn the_start_survives_a_crash_at_every_point_with_or_without_a_checkpoint_after_it() {
    let options = LogOptions {
        retention_age_ms: Some(1000),
        ..small()
    };
    for checkpoint_after in [false, true] {
        for crash_in in 0..60 {
            for keep in [
                CrashKeep::Nothing,
                CrashKeep::Everything,
                CrashKeep::Random(crash_in),
            ] {
                let disk = SimulatedDisk::new();
                let (_store, log) = written(&disk, options);
                let mut saved = log.checkpoint().unwrap();
                disk.set_faults(FaultPlan {
                    crash_in: Some(crash_in),
                    ..FaultPlan::default()
                });
                let removed = log.enforce_retention(1050).is_ok();
                if checkpoint_after && let Ok(checkpoint) = log.checkpoint() {
                    log.checkpoint_saved(&checkpoint);
                    saved = checkpoint;
                }
                let disk = disk.crash(keep);
                let store = open_store(&disk, manual());
                let log = store.open_partition(partition(0), options, &saved).unwrap();
                let start = log.reader().start_offset();
                assert!(!removed || start > Offset(0), "what was removed stays so");
                let found = read_all(&log.reader(), start).unwrap();
                assert_eq!(found, batches(50)[start.0 as usize / 2..]);
                // And once more, from the same checkpoint.
                let disk = disk.crash(CrashKeep::Everything);
                let store = open_store(&disk, manual());
                let log = store.open_partition(partition(0), options, &saved).unwrap();
                assert_eq!(log.reader().start_offset(), start);
            }
        }
    }
}

#[test]
fn what_is_removed_behind_the_checkpoint_can_be_appended_and_removed_again() {
    let options = LogOptions {
        retention_age_ms: Some(1000),
        ..small()
    };
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, options);
    let all = batches(50);
    append_all(&log, &all[..10]);
    let saved = log.checkpoint().unwrap();
    append_all(&log, &all[10..]);
    log.flush().unwrap();
    log.enforce_retention(1080).unwrap();
    assert!(log.reader().start_offset() > Offset(20));
    let disk = disk.crash(CrashKeep::Everything);
    for _ in 0..2 {
        let store = open_store(&disk, manual());
        let log = store.open_partition(partition(0), options, &saved).unwrap();
        assert_eq!(log.reader().start_offset(), Offset(20));
        assert_eq!(log.reader().end_offset(), Offset(20));
        append_all(&log, &all[10..]);
        log.flush().unwrap();
        assert_eq!(read_all(&log.reader(), Offset(20)).unwrap(), all[10..]);
    }
}

#[test]
fn the_mark_goes_with_the_checkpoint_that_makes_it_needless() {
    let disk = SimulatedDisk::new();
    let options = LogOptions {
        retention_age_ms: Some(1000),
        ..small()
    };
    let (_store, log) = written(&disk, options);
    let marks = || files_of(&disk, "start").len();
    log.enforce_retention(1050).unwrap();
    assert_eq!(marks(), 1);
    log.enforce_retention(1080).unwrap();
    assert_eq!(marks(), 1);
    let checkpoint = log.checkpoint().unwrap();
    log.checkpoint_saved(&checkpoint);
    assert!(!log.needs_checkpoint(&checkpoint));
    assert_eq!(marks(), 0);
    log.enforce_retention(1100).unwrap();
    assert!(log.needs_checkpoint(&checkpoint));
}

#[test]
fn memory_remembers_nothing_of_batches_that_retention_or_deletion_dropped() {
    let disk = SimulatedDisk::new();
    let roomy = LogStoreOptions {
        tail_bytes_max: u64::MAX,
        ..manual()
    };
    let store = open_store(&disk, roomy);
    let options = LogOptions {
        retention_bytes: Some(0),
        ..small()
    };
    let log = open_new(&store, options);
    let entries = || store.shared().budget.entries();
    for n in 0..2000 {
        log.append(batch(n, &[b"a"]));
        log.flush().unwrap();
        log.enforce_retention(n).unwrap();
        assert!(entries() <= 600, "{} after {n}", entries());
    }
    let deleted = std::sync::Arc::downgrade(&log.log);
    store.remove(partition(0));
    drop(log);
    for n in 0..2000 {
        let log = open_new(&store, small());
        log.append(batch(0, &[b"a"]));
        log.flush().unwrap();
        store.remove(partition(0));
        assert!(entries() <= 600, "{} after {n}", entries());
    }
    assert_eq!(deleted.strong_count(), 0);
}

#[test]
fn a_file_that_retention_removes_in_front_of_a_reader_is_no_damage() {
    let disk = SimulatedDisk::new();
    let options = LogOptions {
        retention_age_ms: Some(1000),
        ..small()
    };
    let (store, log) = written(&disk, options);
    let reader = log.reader();
    let ReadOutcome::Disk(read) = reader.read(Offset(0), 1000, reader.end_offset()) else {
        panic!("the tail is empty");
    };
    log.enforce_retention(1050).unwrap();
    assert!(matches!(read.run(), Err(ReadError::OutOfRange { .. })));
    assert_eq!(store.damaged(), []);
}
