//! Without crashes: what goes in comes out, and what is purged makes room.

use super::*;

#[test]
fn entries_of_many_shards_survive_a_restart() {
    for sync in [ALWAYS, RARELY] {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, sync);
        for index in 0..20 {
            for shard in 0..16 {
                let log = wal.shard(ShardId(shard));
                append(&log, vec![entry(log.id(), 2, index, 100 * shard as usize)]).unwrap();
            }
        }
        wal.shutdown().unwrap();
        let wal = open(&disk, sync);
        assert_eq!(wal.shards(), (0..16).map(ShardId).collect::<Vec<_>>());
        for shard in 0..16 {
            let log = wal.shard(ShardId(shard));
            let expected: Vec<_> = (0..20)
                .map(|index| entry(log.id(), 2, index, 100 * shard as usize))
                .collect();
            assert_eq!(read_all(&log), expected);
            assert_eq!(log.state().last, Some(position(2, 19)));
        }
    }
}

#[test]
fn parts_are_written_without_being_joined_and_read_as_one() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, RARELY);
    let log = wal.shard(ShardId(3));
    let parts = vec![
        Bytes::from(vec![1; 9000]),
        Bytes::new(),
        Bytes::from(vec![2; 7001]),
    ];
    let joined = parts.concat();
    let whole = WalEntry {
        term: 1,
        index: 7,
        payload: parts,
    };
    append(&log, vec![whole]).unwrap();
    append(
        &log,
        vec![WalEntry {
            term: 1,
            index: 8,
            payload: vec![],
        }],
    )
    .unwrap();
    let entries = log.read(7..100, usize::MAX).unwrap();
    assert_eq!(entries[0].payload, [joined]);
    assert_eq!(entries[1].payload, [""]);
}

#[test]
fn a_read_gives_at_least_one_entry_and_then_no_more_than_asked() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..100, 1000);
    assert_eq!(log.read(0..100, 0).unwrap().len(), 1);
    assert_eq!(log.read(0..100, 5500).unwrap().len(), 5);
    assert_eq!(log.read(10..12, usize::MAX).unwrap().len(), 2);
    assert_eq!(log.read(98..200, usize::MAX).unwrap().len(), 2);
    assert_eq!(log.read(100..200, usize::MAX).unwrap().len(), 0);
    assert_eq!(log.read(5..5, usize::MAX).unwrap().len(), 0);
}

#[test]
fn entries_out_of_sequence_or_too_large_are_refused_and_change_nothing() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, RARELY);
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..3, 10);
    let before = log.state();
    let gap = append(
        &log,
        vec![entry(log.id(), 1, 3, 1), entry(log.id(), 1, 5, 1)],
    );
    assert!(matches!(
        gap,
        Err(WalError::OutOfSequence {
            expected: 4,
            found: 5
        })
    ));
    let size = options(RARELY).entry_bytes_max() as usize + 1;
    let large = append(&log, vec![entry(log.id(), 1, 3, size)]);
    assert!(matches!(large, Err(WalError::TooLarge { .. })));
    assert!(matches!(
        wal.reserve(size as u64),
        Err(WalError::TooLarge { .. })
    ));
    assert_eq!(log.state(), before);
    append_range(&log, 3..4, size - 1);
}

#[test]
fn truncated_entries_are_replaced_and_terms_follow() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    append_range(&log, 1..10, 10);
    append(
        &log,
        vec![entry(log.id(), 4, 10, 10), entry(log.id(), 5, 11, 10)],
    )
    .unwrap();
    wait(|done| log.truncate_after(Some(10), done)).unwrap();
    assert_eq!(log.state().last, Some(position(4, 10)));
    wait(|done| log.truncate_after(Some(7), done)).unwrap();
    assert_eq!(log.state().last, Some(position(1, 7)));
    append(&log, vec![entry(log.id(), 6, 8, 33)]).unwrap();
    wal.shutdown().unwrap();
    let log = open(&disk, ALWAYS).shard(ShardId(1));
    assert_eq!(log.state().last, Some(position(6, 8)));
    assert_eq!(
        log.read(8..20, usize::MAX).unwrap(),
        [entry(log.id(), 6, 8, 33)]
    );
    wait(|done| log.truncate_after(None, done)).unwrap();
    assert_eq!(log.state().last, None);
    append_range(&log, 1..2, 10);
}

#[test]
fn a_purge_past_the_end_lets_the_log_go_on_there() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..10, 10);
    log.purge(position(1, 4), Bytes::from_static(b"id4"));
    assert_eq!(log.state().first, Some(5));
    assert!(matches!(
        log.read(4..6, 100),
        Err(WalError::Purged { first: 5 })
    ));
    log.purge(position(1, 2), Bytes::from_static(b"older, ignored"));
    assert_eq!(log.state().purged_log_id, Some(Bytes::from_static(b"id4")));
    log.purge(position(3, 50), Bytes::from_static(b"id50"));
    let error = append(&log, vec![entry(log.id(), 3, 10, 1)]).unwrap_err();
    assert!(matches!(
        error,
        WalError::OutOfSequence {
            expected: 51,
            found: 10
        }
    ));
    append(&log, vec![entry(log.id(), 3, 51, 10)]).unwrap();
    wal.shutdown().unwrap();
    let state = open(&disk, ALWAYS).shard(ShardId(1)).state();
    assert_eq!(state.purged, Some(position(3, 50)));
    assert_eq!(state.purged_log_id, Some(Bytes::from_static(b"id50")));
    assert_eq!((state.first, state.last), (Some(51), Some(position(3, 51))));
}

#[test]
fn votes_survive_restarts_and_the_segments_they_were_written_to() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, RARELY);
    let (quiet, busy) = (wal.shard(ShardId(1)), wal.shard(ShardId(2)));
    wait(|done| quiet.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
    wal.shutdown().unwrap();
    assert!(matches!(append(&busy, vec![]), Err(WalError::Closed)));
    for round in 0..3 {
        let wal = open(&disk, RARELY);
        let quiet = wal.shard(ShardId(1)).state();
        assert_eq!(quiet.vote, Some(Bytes::from_static(b"vote")));
        let busy = wal.shard(ShardId(2));
        for index in round * 100..(round + 1) * 100 {
            append(&busy, vec![entry(busy.id(), 1, index, 5000)]).unwrap();
            if index >= 10 {
                busy.purge(position(1, index - 10), Bytes::new());
            }
        }
        wal.sync().unwrap();
        until("the first segment is recycled", || {
            !segment_files(&disk).contains(&PathBuf::from("/wal/0000000000000001.wal"))
        });
        wal.shutdown().unwrap();
    }
}

#[test]
fn purged_segments_are_recycled_and_the_files_stay_bounded() {
    for sync in [ALWAYS, RARELY] {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        for index in 0..1000 {
            let reservation = loop {
                match wal.reserve(8000) {
                    Ok(reservation) => break reservation,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                wal.sync().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            };
            append(&log, vec![entry(log.id(), 1, index, 8000)]).unwrap();
            drop(reservation);
            if index >= 5 {
                log.purge(position(1, index - 5), Bytes::new());
            }
            assert!(disk.list(Path::new("/wal")).unwrap().len() <= 8);
        }
        assert!(wal.usage().bytes <= wal.usage().bytes_max);
        wal.shutdown().unwrap();
        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        assert_eq!(read_all(&log).len(), 5);
    }
}

#[test]
fn reservations_stop_at_the_limit_and_an_append_that_has_one_always_fits() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, RARELY);
    let log = wal.shard(ShardId(1));
    let mut wanted = wal.checkpoint_wanted();
    let mut reservations = Vec::new();
    let error = loop {
        match wal.reserve(3000) {
            Ok(reservation) => reservations.push(reservation),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, WalError::Full { .. }), "{error}");
    assert!(error.is_retryable());
    assert!(reservations.len() as u64 * 3000 > options(RARELY).bytes_max / 2);
    for index in 0..reservations.len() as u64 {
        append(&log, vec![entry(log.id(), 1, index, 3000)]).unwrap();
    }
    let files = disk.list(Path::new("/wal")).unwrap();
    assert!(files.len() <= 8, "{files:?}");
    assert!(wanted.has_changed().unwrap());
    wanted.mark_unchanged();
    assert_eq!(wal.shards_to_checkpoint(), [ShardId(1)]);
    drop(reservations);
    let full = loop {
        match wal.reserve(3000) {
            Ok(_reservation) => {
                let next = log.state().last.unwrap().index + 1;
                append(&log, vec![entry(log.id(), 1, next, 3000)]).unwrap();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(full, WalError::Full { .. }), "{full}");
    log.purge(position(1, 100), Bytes::new());
    // It is synced for who waits, long before the interval is over.
    until("purging makes room", || wal.reserve(3000).is_ok());
}

#[test]
fn a_thousand_shards_share_one_log() {
    let disk = SimulatedDisk::new();
    let big = || WalOptions {
        segment_bytes: 1 << 20,
        bytes_max: 8 << 20,
        ..options(RARELY)
    };
    let wal = Wal::open(Arc::new(disk.clone()), big(), Arc::new(())).unwrap();
    for shard in 0..1000 {
        let log = wal.shard(ShardId(shard));
        wait(|done| log.save_vote(Bytes::from(shard.to_string()), done)).unwrap();
    }
    for index in 0..3 {
        for shard in 0..1000 {
            let log = wal.shard(ShardId(shard));
            append(&log, vec![entry(log.id(), 1, index, 1000)]).unwrap();
        }
    }
    for shard in 0..1000 {
        wal.shard(ShardId(shard))
            .purge(position(1, 1), Bytes::new());
    }
    wal.shutdown().unwrap();
    let wal = Wal::open(Arc::new(disk), big(), Arc::new(())).unwrap();
    for shard in 0..1000 {
        let log = wal.shard(ShardId(shard));
        assert_eq!(log.state().vote, Some(Bytes::from(shard.to_string())));
        assert_eq!(read_all(&log), [entry(log.id(), 1, 2, 1000)]);
    }
}

#[test]
fn appends_from_many_threads_share_syncs() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    disk.set_faults(FaultPlan {
        sync_delay: Duration::from_millis(2),
        ..FaultPlan::default()
    });
    let start = Instant::now();
    std::thread::scope(|scope| {
        for shard in 0..32 {
            let log = wal.shard(ShardId(shard));
            scope.spawn(move || append_range(&log, 0..25, 50));
        }
    });
    // One after the other, the 800 appends would need 1.6 s for their syncs alone.
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_callback_may_panic_or_drop_the_last_handle() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    log.append(vec![entry(log.id(), 1, 0, 1)], |_| {
        panic!("a callback that panics, on purpose")
    });
    append_range(&log, 1..2, 1);
    let (tx, rx) = mpsc::channel();
    let held = (wal, log.clone());
    log.append(vec![entry(log.id(), 1, 2, 1)], move |result| {
        drop(held);
        tx.send(result).unwrap();
    });
    drop(log);
    rx.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(read_all(&open(&disk, ALWAYS).shard(ShardId(1))).len(), 3);
}
