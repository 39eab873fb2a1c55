//! Compaction: of each key the last record stays, whatever happens meanwhile.

use flumen_protocol::{batch::ProducerSequence, ids::ProducerId, topic::Cleanup};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::disk::{CrashKeep, FaultPlan};

fn compacted() -> LogOptions {
    LogOptions {
        cleanup: Cleanup::Compact,
        tombstone_retention_ms: 100,
        ..small()
    }
}

/// A batch of records with keys, appended at the time `base`; a value of `None` is a tombstone.
fn keyed(base: u64, records: &[(&str, Option<&str>)], codec: Codec) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.set_content_type("text/plain").unwrap();
    for (key, value) in records {
        builder
            .push(&RecordRef {
                timestamp_ms: base as i64,
                key: Some(key.as_bytes()),
                value: value.map(str::as_bytes),
                ..RecordRef::default()
            })
            .unwrap();
    }
    let producer = ProducerSequence {
        producer_id: ProducerId(9),
        epoch: 1,
        sequence: base,
    };
    builder
        .build_sequenced(codec, producer)
        .unwrap()
        .placed(Offset(base), base)
}

/// (offset, key, value) of all records.
type Records = Vec<(u64, String, Option<String>)>;

fn records(reader: &LogReader) -> Records {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut all = Vec::new();
    for batch in read_all(reader, reader.start_offset()).unwrap() {
        let columns = batch.columns().unwrap();
        for index in 0..columns.len() {
            let record = columns.record(index);
            let key = text(record.key.unwrap());
            all.push((columns.offset(index).0, key, record.value.map(text)));
        }
    }
    all
}

/// 200 updates of 7 keys, some of them deletions, two a batch.
fn fill(log: &PartitionLog, codec: Codec) -> Records {
    let mut all = Vec::new();
    for n in 0..100_u64 {
        let pair = [n * 2, n * 2 + 1].map(|offset| {
            let value = (offset % 5 != 0).then(|| format!("value-{offset}-{}", "x".repeat(40)));
            (offset, format!("key-{}", offset * offset % 11), value)
        });
        let records = pair
            .each_ref()
            .map(|(_, key, value)| (key.as_str(), value.as_deref()));
        log.append(keyed(n * 2, &records, codec));
        all.extend(pair);
    }
    log.flush().unwrap();
    all
}

/// Checks that nothing is missing that must be there, and that all is as it was.
fn check(found: &Records, all: &Records, now_ms: u64) {
    for record in found {
        assert_eq!(record, &all[record.0 as usize]);
    }
    assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    for (at, record) in all.iter().enumerate() {
        let superseded = all[at + 1..].iter().any(|later| later.1 == record.1);
        let batch_time = record.0 / 2 * 2;
        let expired = record.2.is_none() && batch_time + 100 <= now_ms;
        let is_there = found.iter().any(|f| f.0 == record.0);
        assert!(is_there || superseded || expired, "{record:?} is missing");
    }
}

/// That sealed segments hold no key twice.
fn check_compact(found: &Records, sealed_end: u64) {
    for (at, record) in found.iter().enumerate() {
        let mut later = found[at + 1..].iter().filter(|l| l.0 < sealed_end);
        assert!(
            record.0 >= sealed_end || later.all(|l| l.1 != record.1),
            "{record:?} is superseded"
        );
    }
}

fn sealed_end(log: &PartitionLog) -> u64 {
    let segments = log.checkpoint().unwrap().segments;
    let sealed = segments.iter().filter(|segment| segment.sealed);
    sealed
        .map(|segment| segment.end_offset.0)
        .max()
        .unwrap_or(0)
}

#[test]
fn of_each_key_the_last_record_stays_in_one_pass_or_in_many() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        for keys_max in [1, 2, 3, 1000] {
            let disk = SimulatedDisk::new();
            let store = open_store(&disk, manual());
            let log = open_new(&store, compacted());
            let all = fill(&log, codec);
            let end = sealed_end(&log);
            assert!(end > 150);
            let done = log
                .log
                .compact(0, keys_max, &CancellationToken::new())
                .unwrap();
            assert!(done.passes > 1 || keys_max > 2, "{done:?}");
            assert!(done.records_removed > 100);
            assert!(
                done.segments_after < done.segments_before,
                "small ones are merged"
            );
            let found = records(&log.reader());
            check(&found, &all, 0);
            check_compact(&found, end);
            // Again, there is nothing to do.
            assert_eq!(
                log.compact(0, &CancellationToken::new()).unwrap(),
                Compaction::default()
            );
        }
    }
}

#[test]
fn batches_keep_their_place_their_producer_and_their_compression() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    fill(&log, Codec::Zstd);
    let before = read_all(&log.reader(), Offset(0)).unwrap();
    log.compact(0, &CancellationToken::new()).unwrap();
    let mut changed = 0;
    for batch in read_all(&log.reader(), Offset(0)).unwrap() {
        let old = before
            .iter()
            .find(|b| b.base_offset() == batch.base_offset())
            .unwrap();
        let (old, new) = (old.header(), batch.header());
        assert_eq!(old.producer, new.producer);
        assert_eq!(old.offset_span, new.offset_span);
        assert_eq!(old.append_time_ms, new.append_time_ms);
        assert_eq!(batch.columns().unwrap().content_type(), "text/plain");
        changed += usize::from(old.record_count != new.record_count);
    }
    assert!(changed > 0);
}

#[test]
fn a_reader_finds_its_way_from_every_offset_over_the_gaps() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    fill(&log, Codec::None);
    log.compact(0, &CancellationToken::new()).unwrap();
    let all = read_all(&log.reader(), Offset(0)).unwrap();
    for offset in 0..200 {
        let found = read_all(&log.reader(), Offset(offset)).unwrap();
        let expected: Vec<_> = all
            .iter()
            .filter(|b| b.end_offset().0 > offset)
            .cloned()
            .collect();
        assert_eq!(found, expected, "from {offset}");
    }
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes_without_bringing_back_what_it_deleted() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let all = fill(&log, Codec::None);
    let end = sealed_end(&log);
    for now in [0, 100, 150, 201, 250, 290, 1000] {
        log.compact(now, &CancellationToken::new()).unwrap();
        let found = records(&log.reader());
        check(&found, &all, now);
        check_compact(&found, end);
        let is_due = |offset: u64| offset / 2 * 2 + 100 <= now;
        let mut due = found
            .iter()
            .filter(|r| r.2.is_none() && r.0 < end && is_due(r.0));
        assert_eq!(due.next(), None, "at {now}");
    }
    assert!(
        all.iter()
            .any(|record| record.2.is_none() && record.0 < end)
    );
}

#[test]
fn a_key_that_is_updated_later_is_compacted_away_from_the_old_segments() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let mut all = fill(&log, Codec::None);
    log.compact(0, &CancellationToken::new()).unwrap();
    for n in 100..200_u64 {
        let key = format!("key-{}", n % 13);
        log.append(keyed(
            n * 2,
            &[(&key, Some("new")), (&key, None)],
            Codec::None,
        ));
        all.push((n * 2, key.clone(), Some("new".to_owned())));
        all.push((n * 2 + 1, key, None));
    }
    log.flush().unwrap();
    let end = sealed_end(&log);
    log.compact(0, &CancellationToken::new()).unwrap();
    let found = records(&log.reader());
    check(&found, &all, 0);
    check_compact(&found, end);
}

#[test]
fn records_without_a_key_stay() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let batches = batches(50);
    append_all(&log, &batches);
    log.flush().unwrap();
    log.compact(u64::MAX, &CancellationToken::new()).unwrap();
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap(), batches);
}

#[test]
fn a_crash_at_any_point_leaves_all_that_must_be_there() {
    for crash_in in 0..80 {
        for keep in [
            CrashKeep::Nothing,
            CrashKeep::Everything,
            CrashKeep::Random(crash_in),
        ] {
            let disk = SimulatedDisk::new();
            let store = open_store(&disk, manual());
            let log = open_new(&store, compacted());
            let all = fill(&log, Codec::Lz4);
            let mut saved = log.checkpoint().unwrap();
            disk.set_faults(FaultPlan {
                crash_in: Some(crash_in),
                ..FaultPlan::default()
            });
            drop(log.compact(250, &CancellationToken::new()));
            if let Ok(checkpoint) = log.checkpoint() {
                log.checkpoint_saved(&checkpoint);
                saved = checkpoint;
            }
            drop(log.compact(400, &CancellationToken::new()));
            let disk = disk.crash(keep);
            let store = open_store(&disk, manual());
            let log = store
                .open_partition(partition(0), compacted(), &saved)
                .unwrap();
            let found = records(&log.reader());
            check(&found, &all, 400);
            let segments = files_of(&disk, "segment").len();
            assert_eq!(segments, saved.segments.len(), "old or new, never both");
            log.compact(400, &CancellationToken::new()).unwrap();
            check(&records(&log.reader()), &all, 400);
        }
    }
}

#[test]
fn old_files_go_when_the_checkpoint_is_saved_and_readers_in_them_finish() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let all = fill(&log, Codec::None);
    let ReadOutcome::Disk(read) = log.reader().read(Offset(0), 1, Offset(200)) else {
        panic!("the tail is empty");
    };
    let segments = || files_of(&disk, "segment").len();
    let before = segments();
    let done = log.compact(0, &CancellationToken::new()).unwrap();
    assert_eq!(segments() as u64, before as u64 + done.segments_after);
    let checkpoint = log.checkpoint().unwrap();
    log.checkpoint_saved(&checkpoint);
    assert_eq!(segments(), checkpoint.segments.len());
    assert!(!read.run().unwrap().is_empty(), "it looked again");
    assert_eq!(store.damaged(), [], "nobody misses the old files");
    check(&records(&log.reader()), &all, 0);
}

#[test]
fn a_full_disk_or_a_damaged_segment_stops_it_and_loses_nothing() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let all = fill(&log, Codec::None);
    let before = files(&disk);
    disk.set_faults(FaultPlan {
        capacity_bytes: Some(0),
        ..FaultPlan::default()
    });
    let error = log.compact(0, &CancellationToken::new()).unwrap_err();
    assert!(
        matches!(error, CompactError::Write(FlushError::NoSpace { .. })),
        "{error}"
    );
    assert_eq!(files(&disk), before, "what was begun is gone");
    check(&records(&log.reader()), &all, 0);
    disk.set_faults(FaultPlan::default());

    let segments = log.checkpoint().unwrap().segments;
    let damaged = segments.iter().rfind(|segment| segment.sealed).unwrap();
    let name = format!(
        "p0-{:020}-{}.segment",
        damaged.base_offset, damaged.generation
    );
    let file = disk
        .open(&std::path::Path::new(DIR).join("7").join(&name))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 300).unwrap();
    let error = log.compact(0, &CancellationToken::new()).unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    file.write_all_at(&byte, 300).unwrap();
    check(&records(&log.reader()), &all, 0);
}

#[test]
fn a_compaction_that_is_cancelled_ends_and_leaves_what_was_there() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    let all = fill(&log, Codec::None);
    let before = files(&disk);
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = log.compact(0, &cancelled).unwrap_err();
    assert!(matches!(error, CompactError::Cancelled), "{error}");
    assert_eq!(files(&disk), before);
    let end = sealed_end(&log);
    log.compact(0, &CancellationToken::new()).unwrap();
    let found = records(&log.reader());
    check(&found, &all, 0);
    check_compact(&found, end);
}

#[test]
fn a_log_of_which_compaction_left_nothing_is_removed_ahead_of_the_checkpoint_like_any_other() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, compacted());
    log.append(keyed(
        0,
        &[("key", Some("value")), ("key", None)],
        Codec::None,
    ));
    let saved = log.checkpoint().unwrap();
    // Old enough to be sealed, and for the tombstone to go.
    let now = SEGMENT_AGE_MS_MAX;
    log.enforce_retention(now).unwrap();
    log.compact(now, &CancellationToken::new()).unwrap();
    assert_eq!(records(&log.reader()), []);
    store.remove_ahead(partition(0)).unwrap();
    assert_eq!(files_of(&disk, "segment"), [] as [&str; 0]);
    let disk = disk.crash(CrashKeep::Everything);
    let store = open_store(&disk, manual());
    let log = store.open_partition(partition(0), compacted(), &saved);
    assert_eq!(log.unwrap().reader().start_offset(), saved.end_offset);
}
