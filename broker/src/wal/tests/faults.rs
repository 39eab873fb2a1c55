//! The disk is full, fails, or holds something else than it should.

use super::*;

fn full_at(bytes: u64) -> FaultPlan {
    FaultPlan {
        capacity_bytes: Some(bytes),
        ..FaultPlan::default()
    }
}

/// Appends to an empty log until there is no more room. Gives the number of entries, and why.
fn fill_up(wal: &Wal, log: &ShardLog) -> (u64, WalError) {
    let mut index = 0;
    loop {
        match wal.reserve(5000) {
            Ok(_reservation) => append_range(log, index..index + 1, 5000),
            Err(error) => return (index, error),
        }
        index += 1;
    }
}

#[test]
fn a_full_disk_refuses_reservations_and_goes_on_when_there_is_room() {
    for sync in [ALWAYS, RARELY] {
        let disk = SimulatedDisk::new();
        disk.set_faults(full_at(SEGMENT_BYTES_MIN * 4));
        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        let (index, error) = fill_up(&wal, &log);
        assert!(matches!(error, WalError::NoSpace { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(index > 20, "only {index} entries fit into four segments");
        assert_eq!(read_all(&log).len() as u64, index, "reads go on");
        wait(|done| log.save_vote(Bytes::from_static(b"v"), done)).unwrap();

        disk.set_faults(full_at(SEGMENT_BYTES_MIN * 6));
        let _reservation = wal.reserve(5000).unwrap();
        append_range(&log, index..index + 1, 5000);
        drop(wal);
    }
}

#[test]
fn what_a_leader_has_taken_in_gets_room_beyond_the_bound_and_leaves_some_for_votes() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    let (mut index, error) = fill_up(&wal, &log);
    assert!(matches!(error, WalError::Full { .. }), "{error}");
    let used_bytes = disk.used_bytes();
    disk.set_faults(full_at(used_bytes + SEGMENT_BYTES_MIN * 3));
    let beyond = index;
    let error = loop {
        match wal.reserve_decided(&[5000, 5000]) {
            Ok(_reservation) => append_range(&log, index..index + 2, 5000),
            Err(error) => break error,
        }
        index += 2;
    };
    assert!(matches!(error, WalError::NoSpace { .. }), "{error}");
    assert!(index > beyond + 10, "only {} entries more", index - beyond);
    wait(|done| log.save_vote(Bytes::from_static(b"v"), done)).unwrap();

    log.purge(position(1, index - 1), Bytes::new());
    until("the purged segments are used again, or removed", || {
        wal.reserve(5000).is_ok() && wal.trouble().is_none()
    });
    until("the surplus is removed", || disk.used_bytes() <= used_bytes);
}

#[test]
fn purging_makes_room_on_a_full_disk() {
    let disk = SimulatedDisk::new();
    disk.set_faults(full_at(SEGMENT_BYTES_MIN * 4));
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    let (index, _) = fill_up(&wal, &log);
    log.purge(position(1, index - 1), Bytes::new());
    until("the purged segments are used again", || {
        wal.reserve(5000).is_ok()
    });
    append_range(&log, index..index + 10, 5000);
}

#[test]
fn room_comes_back_after_segments_could_not_be_renamed_or_removed_or_their_directory_synced() {
    for fail_dir_syncs in [true, false] {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, ALWAYS);
        let log = wal.shard(ShardId(1));
        let (count, error) = fill_up(&wal, &log);
        assert!(matches!(error, WalError::Full { .. }), "{error}");
        disk.set_faults(FaultPlan {
            fail_dir_syncs,
            fail_names_in: (!fail_dir_syncs).then(|| "/wal".into()),
            ..FaultPlan::default()
        });
        log.purge(position(1, count - 1), Bytes::new());
        wal.sync().unwrap();
        until("the purged segments are removed, or stuck", || {
            wal.trouble().is_some() || disk.list(Path::new("/wal")).unwrap().len() < 6
        });
        disk.set_faults(FaultPlan::default());
        until("it has all its room again", || {
            wal.trouble().is_none() && wal.usage().bytes < SEGMENT_BYTES_MIN * 2
        });
        let mut again = 0;
        while let Ok(_reservation) = wal.reserve(5000) {
            append_range(&log, count + again..count + again + 1, 5000);
            again += 1;
        }
        let most = SEGMENT_BYTES_MIN / 5000;
        assert!(again + most > count, "{again} entries fit, {count} before");
        drop((log, wal));
        assert_eq!(
            read_all(&open(&disk, ALWAYS).shard(ShardId(1))).len() as u64,
            again
        );
    }
}

#[test]
fn an_append_without_a_reservation_waits_for_room_and_shutdown_does_not() {
    let disk = SimulatedDisk::new();
    disk.set_faults(full_at(SEGMENT_BYTES_MIN * 2));
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    let (tx, rx) = mpsc::channel();
    for index in 0..40 {
        let tx = tx.clone();
        log.append(vec![entry(log.id(), 1, index, 5000)], move |result| {
            tx.send(result).unwrap();
        });
    }
    until("two segments are full", || {
        wal.usage().bytes > SEGMENT_BYTES_MIN * 2 - 6000
    });
    disk.set_faults(FaultPlan::default());
    for _ in 0..40 {
        rx.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    let used = segment_files(&disk).len() as u64;
    disk.set_faults(full_at(used * SEGMENT_BYTES_MIN));
    for index in 40..80 {
        let tx = tx.clone();
        log.append(vec![entry(log.id(), 1, index, 5000)], move |result| {
            drop(tx.send(result));
        });
    }
    let start = Instant::now();
    drop(wal.shutdown());
    assert!(start.elapsed() < PATIENCE);
    let results: Vec<_> = (0..40)
        .map(|_| rx.recv_timeout(PATIENCE).unwrap())
        .collect();
    let acked = results.iter().filter(|result| result.is_ok()).count();
    assert!(acked < 40);
    let disk = disk.crash(CrashKeep::Nothing);
    let kept = read_all(&open(&disk, ALWAYS).shard(ShardId(1))).len();
    assert!(kept >= 40 + acked);
}

/// Appends until the first error, and checks that nothing is acknowledged after it.
fn append_until_failed(wal: &Wal, log: &ShardLog) -> u64 {
    append_until_failed_by(wal, log, || {})
}

/// As [`append_until_failed`], with a fault that is planted anew now and then: what it strikes may
/// be a file that is filled ahead, which fails nobody.
fn append_until_failed_by(wal: &Wal, log: &ShardLog, plant: impl Fn()) -> u64 {
    const TRIES_MAX: u64 = 100;
    const APPENDS: u64 = 40;
    let first = log.state().last.map_or(0, |last| last.index + 1);
    let mut index = first;
    let acked = loop {
        assert!(index < first + TRIES_MAX * APPENDS, "no append has failed");
        if (index - first).is_multiple_of(APPENDS) {
            plant();
        }
        match append(log, vec![entry(log.id(), 1, index, 700)]) {
            Ok(()) => index += 1,
            Err(error) => {
                assert!(matches!(error, WalError::Failed { .. }), "{error}");
                assert!(!error.is_retryable());
                assert!(error.to_string().contains("/wal/"), "{error}");
                break index;
            }
        }
    };
    for _ in 0..3 {
        let next = log.state().last.map_or(0, |last| last.index + 1);
        let again = append(log, vec![entry(log.id(), 1, next, 10)]);
        assert!(matches!(again, Err(WalError::Failed { .. })));
    }
    let vote = wait(|done| log.save_vote(Bytes::new(), done));
    assert!(matches!(vote, Err(WalError::Failed { .. })));
    assert!(matches!(wal.reserve(1), Err(WalError::Failed { .. })));
    assert!(matches!(wal.sync(), Err(WalError::Failed { .. })));
    assert!(wal.failed().borrow().is_some());
    acked
}

#[test]
fn a_failed_sync_is_final_and_nothing_acknowledged_is_lost() {
    for fail_sync_in in 0..20 {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, ALWAYS);
        let log = wal.shard(ShardId(1));
        append_range(&log, 0..5, 700);
        disk.set_faults(FaultPlan {
            fail_sync_in: Some(fail_sync_in),
            ..FaultPlan::default()
        });
        // A sync that fails while a spare is prepared hurts nobody: that file is not used.
        let strikes = Instant::now();
        let mut index = 5;
        let failed = loop {
            if append(&log, vec![entry(log.id(), 1, index, 700)]).is_err() {
                break true;
            }
            index += 1;
            if index > 300 || strikes.elapsed() > PATIENCE {
                break false;
            }
        };
        let acked = if failed { index } else { 301 };
        if failed {
            append_until_failed(&wal, &log);
        }
        let disk = disk.crash(CrashKeep::Nothing);
        drop((wal, log));
        let log = open(&disk, ALWAYS).shard(ShardId(1));
        assert!(read_all(&log).len() as u64 >= acked.min(index));
    }
}

#[test]
fn a_failed_write_is_final_and_the_torn_record_is_cut() {
    for sync in [ALWAYS, RARELY] {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        append_range(&log, 0..5, 700);
        let acked = append_until_failed_by(&wal, &log, || {
            disk.set_faults(FaultPlan {
                fail_write_in: Some(10),
                ..FaultPlan::default()
            });
        });
        let disk = disk.crash(CrashKeep::Everything);
        drop((wal, log));
        let log = open(&disk, sync).shard(ShardId(1));
        assert_eq!(read_all(&log).len() as u64, acked);
    }
}

#[test]
fn all_who_wait_get_the_error_of_a_failed_sync() {
    const WAITING: u64 = 100;
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..1, 10);
    let mut next = 1;
    // The one failing sync may be that of a file that is prepared ahead, which is prepared
    // again and fails nobody. Then all are acknowledged, and it is tried once more.
    for _ in 0..100 {
        disk.set_faults(FaultPlan {
            fail_sync_in: Some(0),
            sync_delay: Duration::from_millis(50),
            ..FaultPlan::default()
        });
        let (tx, rx) = mpsc::channel();
        for index in next..next + WAITING {
            let tx = tx.clone();
            log.append(vec![entry(log.id(), 1, index, 10)], move |result| {
                tx.send(result).unwrap();
            });
        }
        next += WAITING;
        let results: Vec<_> = (0..WAITING)
            .map(|_| rx.recv_timeout(PATIENCE).unwrap())
            .collect();
        let is_failed =
            |result: &Result<(), WalError>| matches!(result, Err(WalError::Failed { .. }));
        let failed = results.iter().filter(|result| is_failed(result)).count();
        if failed > 0 {
            assert_eq!(
                failed as u64, WAITING,
                "some were acknowledged: {results:?}"
            );
            return;
        }
        assert!(results.iter().all(Result::is_ok));
    }
    panic!("no sync of the log has failed");
}

#[test]
fn a_failed_sync_in_the_background_ends_the_log_too() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, SyncPolicy::Every(Duration::from_millis(1)));
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..5, 10);
    wal.sync().unwrap();
    let failed = wal.failed();
    let mut index = 5;
    until("the failure is known", || {
        // The sync that fails may be that of a file that is prepared ahead, which hurts
        // nobody: then the next one shall.
        disk.set_faults(FaultPlan {
            fail_sync_in: Some(0),
            ..FaultPlan::default()
        });
        let next = log.state().last.map_or(0, |last| last.index + 1);
        drop(append(&log, vec![entry(log.id(), 1, next, 10)]));
        failed.borrow().is_some()
    });
    index += append_until_failed(&wal, &log);
    assert!(index > 5);
}

#[test]
fn foreign_files_are_left_alone() {
    let disk = SimulatedDisk::new();
    drop(open(&disk, ALWAYS));
    let names = [
        "notes.txt",
        "1.wal",
        "000000000000000G.wal",
        "0000000000000000.wal",
        "wal",
    ];
    for name in names {
        let file = disk.create(&Path::new("/wal").join(name)).unwrap();
        file.write_all_at(b"mine", 0).unwrap();
    }
    disk.create_dir_all(Path::new("/wal/0000000000000009.wal"))
        .unwrap();
    let wal = open(&disk, ALWAYS);
    append_range(&wal.shard(ShardId(1)), 0..50, 5000);
    wal.shutdown().unwrap();
    drop(open(&disk, ALWAYS));
    for name in names {
        let file = disk.open(&Path::new("/wal").join(name)).unwrap();
        assert_eq!(file.len().unwrap(), 4);
    }
}

#[test]
fn spares_of_another_size_are_replaced_when_the_setting_changes() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    append_range(&wal.shard(ShardId(1)), 0..50, 5000);
    wal.shutdown().unwrap();
    let larger = WalOptions {
        segment_bytes: SEGMENT_BYTES_MIN * 2,
        bytes_max: SEGMENT_BYTES_MIN * 16,
        ..options(ALWAYS)
    };
    let wal = Wal::open(Arc::new(disk.clone()), larger.clone(), Arc::new(())).unwrap();
    let log = wal.shard(ShardId(1));
    append_range(&log, 50..100, 20_000);
    log.purge(position(1, 60), Bytes::new());
    wal.shutdown().unwrap();
    let wal = Wal::open(Arc::new(disk), larger, Arc::new(())).unwrap();
    assert_eq!(read_all(&wal.shard(ShardId(1))).len(), 39);
}
