//! Damaged files: never wrong data. An error names the place, and what is whole stays readable.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::*;

struct Damaged {
    disk: SimulatedDisk,
    checkpoint: LogCheckpoint,
    batches: Vec<Batch>,
}

impl Damaged {
    /// A log with a sealed segment or two, and an active one.
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let store = open_store(&disk, manual());
        let log = open_new(&store, small());
        let batches = batches(12);
        append_all(&log, &batches);
        let checkpoint = log.checkpoint().unwrap();
        assert!(checkpoint.segments.len() >= 2);
        Self {
            disk,
            checkpoint,
            batches,
        }
    }

    fn path(&self, segment: usize) -> PathBuf {
        let base = self.checkpoint.segments[segment].base_offset;
        Path::new(DIR).join(format!("7/p0-{base:020}-0.segment"))
    }

    /// Reads every offset and checks: the right batches or an error about this file. Returns how
    /// many offsets could not be read.
    fn check(&self, path: &Path, what: &str) -> usize {
        let store = open_store(&self.disk, manual());
        let log = store.open_partition(partition(0), small(), &self.checkpoint);
        let reader = log.unwrap().reader();
        let end = reader.end_offset();
        let mut unreadable = 0;
        for offset in 0..end.0 {
            let ReadOutcome::Disk(read) = reader.read(Offset(offset), 1 << 20, end) else {
                panic!("the tail is empty");
            };
            match read.run() {
                Ok(found) => {
                    let expected = &self.batches[offset as usize / 2..];
                    assert!(!found.is_empty(), "{what}, from {offset}");
                    assert_eq!(found, expected[..found.len()], "{what}, from {offset}");
                }
                Err(ReadError::Damaged { path: p, .. }) => {
                    assert_eq!(p, path, "{what}");
                    unreadable += 1;
                }
                Err(other) => panic!("{what}, from {offset}: {other}"),
            }
        }
        unreadable
    }
}

#[test]
fn each_flipped_byte_is_an_error_at_its_batch_and_the_others_can_be_read() {
    let log = Damaged::new();
    for segment in 0..2 {
        let path = log.path(segment);
        let promised = &log.checkpoint.segments[segment];
        let file = log.disk.open(&path).unwrap();
        for at in 0..promised.bytes {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
            let unreadable = log.check(&path, &format!("byte {at} of segment {segment}"));
            let records = promised.end_offset.0 - promised.base_offset.0;
            if at < 36 {
                assert_eq!(
                    unreadable as u64, records,
                    "the file is not known by its header"
                );
            } else if at >= 40 {
                assert_eq!(unreadable, 2, "byte {at}: the records of one batch");
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(log.check(&path, "repaired"), 0);
    }
}

#[test]
fn damage_under_a_rebuilt_index_is_passed_by_too() {
    let log = Damaged::new();
    for name in &files_of(&log.disk, "index") {
        let path = Path::new(DIR).join("7").join(name);
        log.disk.remove_file(&path).unwrap();
    }
    let path = log.path(0);
    let file = log.disk.open(&path).unwrap();
    for at in 40..log.checkpoint.segments[0].bytes {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let unreadable = log.check(&path, &format!("byte {at}"));
        assert_eq!(unreadable, 2, "byte {at}");
        for name in &files_of(&log.disk, "index") {
            drop(log.disk.remove_file(&Path::new(DIR).join("7").join(name)));
        }
        file.write_all_at(&byte, at).unwrap();
    }
}

#[test]
fn a_file_that_loses_its_end_while_it_is_open_is_an_error() {
    let log = Damaged::new();
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), small(), &log.checkpoint);
    let reader = opened.unwrap().reader();
    assert_eq!(read_all(&reader, Offset(0)).unwrap(), log.batches);
    let path = log.path(0);
    let bytes = log.checkpoint.segments[0].bytes;
    log.disk.open(&path).unwrap().set_len(bytes - 1).unwrap();
    let error = read_all(&reader, Offset(0)).unwrap_err();
    assert!(error.to_string().contains("1 bytes early"), "{error}");
}

#[test]
fn two_files_that_change_places_are_recognised() {
    let log = Damaged::new();
    let [a, b, aside] = [log.path(0), log.path(1), PathBuf::from("/aside")];
    log.disk.rename(&a, &aside).unwrap();
    log.disk.rename(&b, &a).unwrap();
    log.disk.rename(&aside, &b).unwrap();
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), small(), &log.checkpoint);
    match opened {
        Ok(opened) => assert!(read_all(&opened.reader(), Offset(0)).is_err()),
        Err(error) => assert!(matches!(error, OpenError::Short { .. })),
    }
}

/// Segments that take more than those of [`small`], so that the active one has room.
fn with_room() -> LogOptions {
    LogOptions {
        segment_bytes: 10_000,
        ..small()
    }
}

#[test]
fn a_damaged_active_segment_does_not_keep_new_batches_from_the_disk() {
    let log = Damaged::new();
    let active = log.checkpoint.segments.len() - 1;
    let path = log.path(active);
    log.disk.open(&path).unwrap().write_all_at(b"x", 3).unwrap();
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), with_room(), &log.checkpoint);
    let opened = opened.unwrap();
    opened.append(batch(24, &[b"new"]));
    opened.flush().unwrap();
    let found = read_all(&opened.reader(), Offset(24)).unwrap();
    assert_eq!(found, [batch(24, &[b"new"])]);
    assert_eq!(store.damaged(), [partition(0)], "the others are asked");
    let first = log.checkpoint.segments[active].base_offset;
    assert!(read_all(&opened.reader(), first).is_err());
}

#[test]
fn an_active_segment_that_is_gone_does_not_keep_new_batches_from_the_disk() {
    let log = Damaged::new();
    let active = log.checkpoint.segments.len() - 1;
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), with_room(), &log.checkpoint);
    let opened = opened.unwrap();
    log.disk.remove_file(&log.path(active)).unwrap();
    opened.append(batch(24, &[b"new"]));
    opened.flush().unwrap();
    let found = read_all(&opened.reader(), Offset(24)).unwrap();
    assert_eq!(found, [batch(24, &[b"new"])]);
    assert_eq!(store.damaged(), [partition(0)], "the others are asked");
    // What it held is missed, here and at the next start.
    let first = log.checkpoint.segments[active].base_offset;
    assert!(read_all(&opened.reader(), first).is_err());
    let checkpoint = opened.checkpoint().unwrap();
    drop((opened, store));
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), small(), &checkpoint);
    assert!(matches!(opened, Err(OpenError::Missing { .. })));
}

#[test]
fn no_checkpoint_is_taken_without_a_file_that_has_what_the_last_one_does_not() {
    for (files_max, is_cut) in [(1, false), (1000, false), (1000, true)] {
        let disk = SimulatedDisk::new();
        let options = LogStoreOptions {
            open_files_max: files_max,
            ..manual()
        };
        let store = open_store(&disk, options);
        let log = open_new(&store, with_room());
        let all = batches(12);
        append_all(&log, &all[..4]);
        let saved = log.checkpoint().unwrap();
        log.checkpoint_saved(&saved);
        append_all(&log, &all[4..]);
        log.flush().unwrap();
        // Closes the file of the first, if there may be one only.
        let other = store.open_partition(partition(1), small(), &LogCheckpoint::default());
        let other = other.unwrap();
        other.append(batch(0, &[b"other"]));
        other.flush().unwrap();

        let path = Path::new(DIR).join("7/p0-00000000000000000000-0.segment");
        let aside = Path::new("/aside");
        let bytes = disk.open(&path).unwrap().len().unwrap();
        if is_cut {
            disk.open(&path).unwrap().set_len(bytes - 1).unwrap();
        } else {
            disk.rename(&path, aside).unwrap();
        }
        for _ in 0..2 {
            let error = log.checkpoint().unwrap_err();
            let CheckpointError::Gone {
                found, saved_bytes, ..
            } = &error
            else {
                panic!("{error}");
            };
            let expected = if is_cut {
                Found::Bytes(bytes - 1)
            } else {
                Found::NoFile
            };
            assert_eq!((*found, *saved_bytes), (expected, saved.segments[0].bytes));
            assert!(error.to_string().contains("p0-"), "{error}");
        }
        assert_eq!(store.damaged(), [partition(0)], "the others are asked");
        other.checkpoint().unwrap();
        if !is_cut {
            disk.rename(aside, &path).unwrap();
            let checkpoint = log.checkpoint().unwrap();
            log.checkpoint_saved(&checkpoint);
        }
    }
}

#[test]
fn a_file_that_compaction_has_made_is_looked_for_before_the_old_ones_go() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let options = LogOptions {
        cleanup: flumen_protocol::topic::Cleanup::Compact,
        ..small()
    };
    let log = open_new(&store, options);
    append_all(&log, &batches(50));
    let saved = log.checkpoint().unwrap();
    log.checkpoint_saved(&saved);
    // Without keys nothing is removed: small segments become larger ones.
    log.configure(LogOptions {
        segment_bytes: 3000,
        ..options
    });
    log.compact(0, &CancellationToken::new()).unwrap();
    let made = Path::new(DIR).join("7/p0-00000000000000000000-1.segment");
    disk.remove_file(&made).unwrap();
    assert!(matches!(
        log.checkpoint(),
        Err(CheckpointError::Gone { .. })
    ));
    let disk = disk.crash(crate::disk::CrashKeep::Everything);
    let store = open_store(&disk, manual());
    let log = store.open_partition(partition(0), small(), &saved).unwrap();
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), batches(50));
}

/// Salvages the log, checks that it is the batches before the damage, and gives it back whole.
fn salvage(log: &Damaged, what: &str) {
    let store = open_store(&log.disk, manual());
    let salvaged = store.salvage(
        partition(0),
        small(),
        &log.checkpoint,
        &CancellationToken::new(),
    );
    let salvaged = salvaged.unwrap();
    let end = salvaged.reader().end_offset();
    let kept = end.0 as usize / 2;
    assert_eq!(
        read_all(&salvaged.reader(), Offset(0)).unwrap(),
        log.batches[..kept],
        "{what}"
    );
    let aside = files_of(&log.disk, "damaged").len();
    let lost = log.checkpoint.segments.iter();
    let lost = lost.filter(|segment| segment.end_offset > end).count();
    assert!(
        aside == lost || aside + 1 == lost,
        "{what}: {aside} files of {lost}"
    );
    append_all(&salvaged, &log.batches[kept..]);
    let again = salvaged.checkpoint().unwrap();
    store.remove_set_aside(&[partition(0)]);
    assert_eq!(files_of(&log.disk, "damaged"), [] as [&str; 0]);
    drop((salvaged, store));
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), small(), &again).unwrap();
    assert_eq!(
        read_all(&opened.reader(), Offset(0)).unwrap(),
        log.batches,
        "{what}"
    );
}

#[test]
fn whatever_is_damaged_what_lies_before_it_is_salvaged_and_the_rest_set_aside() {
    for segment in 0..2 {
        for at in (0..Damaged::new().checkpoint.segments[segment].bytes).step_by(7) {
            let log = Damaged::new();
            let file = log.disk.open(&log.path(segment)).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
            salvage(&log, &format!("byte {at} of segment {segment}"));
        }
        let log = Damaged::new();
        let bytes = log.checkpoint.segments[segment].bytes;
        let file = log.disk.open(&log.path(segment)).unwrap();
        file.set_len(bytes / 2).unwrap();
        salvage(&log, &format!("half of segment {segment}"));
        let log = Damaged::new();
        log.disk.remove_file(&log.path(segment)).unwrap();
        salvage(&log, &format!("no segment {segment}"));
    }
    salvage(&Damaged::new(), "nothing");
}

#[test]
fn a_log_that_is_closed_is_opened_again_with_what_its_checkpoint_says() {
    let log = Damaged::new();
    let store = open_store(&log.disk, manual());
    let open = || store.open_partition(partition(0), small(), &log.checkpoint);
    let opened = open().unwrap();
    opened.append(batch(24, &[b"behind the checkpoint"]));
    opened.flush().unwrap();
    store.close(&[partition(0)]).unwrap();
    assert!(store.is_empty() && opened.reader().is_removed());
    let again = open().unwrap();
    assert_eq!(read_all(&again.reader(), Offset(0)).unwrap(), log.batches);
}

#[test]
fn a_partition_in_which_a_read_finds_damage_is_known_until_it_is_closed() {
    let log = Damaged::new();
    let store = open_store(&log.disk, manual());
    let opened = store.open_partition(partition(0), small(), &log.checkpoint);
    let reader = opened.unwrap().reader();
    read_all(&reader, Offset(0)).unwrap();
    assert_eq!(store.damaged(), []);
    let file = log.disk.open(&log.path(0)).unwrap();
    file.write_all_at(b"x", 100).unwrap();
    assert!(read_all(&reader, Offset(0)).is_err());
    assert_eq!(store.damaged(), [partition(0)]);
    store.close(&[partition(0)]).unwrap();
    assert_eq!(store.damaged(), []);
}

#[test]
fn a_salvage_that_nobody_waits_for_any_more_ends_and_sets_nothing_aside() {
    let log = Damaged::new();
    let path = log.path(1);
    log.disk.open(&path).unwrap().set_len(50).unwrap();
    let store = open_store(&log.disk, manual());
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let salvaged = store.salvage(partition(0), small(), &log.checkpoint, &cancelled);
    assert!(matches!(salvaged, Err(OpenError::Io { .. })));
    assert!(log.disk.open(&path).is_ok());
}
