//! Appending and reading.

use super::*;

#[test]
fn what_is_appended_is_read_from_memory_and_from_disk_from_every_offset() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let batches = batches(50);
    for batch in &batches {
        log.append(batch.clone());
    }
    let check = || {
        for offset in 0..100 {
            let found = read_all(&log.reader(), Offset(offset)).unwrap();
            assert_eq!(found, batches[offset as usize / 2..], "from {offset}");
        }
        assert!(read_all(&log.reader(), Offset(100)).unwrap().is_empty());
        assert!(read_all(&log.reader(), Offset(101)).is_err());
    };
    check();
    assert_eq!(store.tail_bytes(), 0);
    log.flush().unwrap();
    assert_eq!((store.unflushed_bytes(), store.tail_bytes()), (0, 0));
    check();
}

#[test]
fn a_reader_sees_whole_batches_up_to_its_limit_only() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let batches = batches(10);
    let ends_at = |up_to: u64| {
        let reader = log.reader();
        match reader.read(Offset(0), 1 << 20, Offset(up_to)) {
            ReadOutcome::Memory(batches) => batches.last().map(|b| b.end_offset().0),
            ReadOutcome::Disk(read) => read.run().unwrap().last().map(|b| b.end_offset().0),
            ReadOutcome::End => None,
            ReadOutcome::OutOfRange { .. } => panic!("0 is in range"),
        }
    };
    append_all(&log, &batches);
    for flushed in [false, true] {
        assert_eq!(ends_at(0), None, "{flushed}");
        assert_eq!(ends_at(1), None, "{flushed}");
        assert_eq!(ends_at(2), Some(2), "{flushed}");
        assert_eq!(ends_at(7), Some(6), "{flushed}");
        log.flush().unwrap();
    }
}

#[test]
fn a_batch_larger_than_asked_for_is_read_alone() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let large = batch(0, &[&vec![1; 300_000]]);
    log.append(large.clone());
    log.append(batch(1, &[b"small"]));
    for _ in 0..2 {
        let first = match log.reader().read(Offset(0), 10, Offset(2)) {
            ReadOutcome::Memory(batches) => batches,
            ReadOutcome::Disk(read) => read.run().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(first, std::slice::from_ref(&large));
        log.flush().unwrap();
    }
}

#[test]
fn a_batch_without_records_is_not_stored() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    log.append(Batch::empty(
        flumen_protocol::batch::ProducerSequence::default(),
    ));
    assert_eq!(log.reader().end_offset(), Offset(0));
    assert_eq!(store.unflushed_bytes(), 0);
}

#[test]
#[should_panic(expected = "ends at offset 1")]
fn a_batch_before_the_end_is_a_bug_of_the_caller() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    log.append(batch(0, &[b"a"]));
    log.append(batch(0, &[b"a"]));
}

#[test]
fn a_replica_may_begin_anywhere_and_take_batches_with_gaps() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let from = LogCheckpoint::empty_at(Offset(100));
    let log = store.open_partition(partition(0), small(), &from).unwrap();
    let batches = [batch(104, &[b"a"]), batch(110, &[b"b", b"c"])];
    append_all(&log, &batches);
    for _ in 0..2 {
        assert!(read_all(&log.reader(), Offset(99)).is_err());
        for (offset, expected) in [(100, 0), (104, 0), (105, 1), (111, 1), (112, 2)] {
            let found = read_all(&log.reader(), Offset(offset)).unwrap();
            assert_eq!(found, batches[expected..], "from {offset}");
        }
        log.flush().unwrap();
    }
}

#[test]
fn the_tail_keeps_the_newest_flushed_batches_within_its_budget() {
    let disk = SimulatedDisk::new();
    let budget = 10 * 1024;
    let options = LogStoreOptions {
        tail_bytes_max: budget,
        ..manual()
    };
    let store = open_store(&disk, options);
    let logs: Vec<_> = (0..3)
        .map(|index| {
            let id = partition(index);
            let log = store.open_partition(id, small(), &LogCheckpoint::default());
            log.unwrap()
        })
        .collect();
    for n in 0..60 {
        for log in &logs {
            log.append(batch(n * 2, &[b"a", b"b"]));
            log.flush().unwrap();
        }
        assert!(store.tail_bytes() <= budget);
    }
    assert!(store.tail_bytes() > budget / 2, "the budget is used");
    for log in &logs {
        let reader = log.reader();
        let from_memory =
            |offset| matches!(reader.read(offset, 1, Offset(120)), ReadOutcome::Memory(_));
        assert!(from_memory(Offset(119)), "each has its newest");
        assert!(!from_memory(Offset(0)), "none has its oldest");
        assert_eq!(read_all(&reader, Offset(0)).unwrap().len(), 60);
    }
    for log in &logs {
        store.remove(log.id());
    }
    assert_eq!((store.tail_bytes(), store.unflushed_bytes()), (0, 0));
}

#[test]
fn a_removed_partition_is_gone_from_disk_and_for_its_readers() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    append_all(&log, &batches(30));
    log.flush().unwrap();
    log.append(batch(60, &[b"unflushed"]));
    let reader = log.reader();
    let ReadOutcome::Disk(read) = reader.read(Offset(0), 1, Offset(60)) else {
        panic!("the tail is empty");
    };
    store.remove(partition(0));
    assert!(disk.list(std::path::Path::new(DIR)).unwrap().is_empty());
    assert!(matches!(read.run(), Err(ReadError::OutOfRange { .. })));
    assert!(reader.is_removed());
    assert!(matches!(
        reader.read(Offset(0), 1, Offset(60)),
        ReadOutcome::OutOfRange { .. }
    ));
    log.append(batch(61, &[b"late"]));
    log.flush().unwrap();
    assert!(files(&disk).is_empty());
    // Made anew, it begins from nothing.
    let log = open_new(&store, small());
    log.append(batch(0, &[b"new"]));
    log.flush().unwrap();
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap().len(), 1);
}

#[test]
fn the_flusher_writes_without_being_told() {
    let disk = SimulatedDisk::new();
    let options = LogStoreOptions {
        flush_mode: FlushMode::Background,
        ..manual()
    };
    let store = open_store(&disk, options);
    let log = open_new(&store, LogOptions::default());
    let value = vec![0; FLUSH_BYTES as usize / 2];
    for n in 0..8 {
        log.append(batch(n, &[&value]));
    }
    wait_until(|| store.unflushed_bytes() == 0);
    log.append(batch(8, &[b"small"]));
    wait_until(|| store.unflushed_bytes() == 0);
    assert_eq!(read_all(&log.reader(), Offset(0)).unwrap().len(), 9);
}

#[test]
fn who_waits_for_room_is_woken_when_there_is_some() {
    let disk = SimulatedDisk::new();
    let options = LogStoreOptions {
        unflushed_bytes_max: 1000,
        ..manual()
    };
    let store = open_store(&disk, options);
    let log = open_new(&store, small());
    log.append(batch(0, &[&[0; 2000]]));
    assert!(!store.has_room());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let waiting = store.clone();
        let waiter = tokio::spawn(async move { waiting.room().await });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        log.flush().unwrap();
        waiter.await.unwrap();
    });
    assert!(store.has_room());
}

pub(super) fn wait_until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
