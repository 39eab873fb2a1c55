//! Somebody removes files of a log that is in use.

use super::*;

fn remove_all(disk: &SimulatedDisk) {
    for entry in disk.list(Path::new("/wal")).unwrap() {
        if let Err(error) = disk.remove_file(&entry.path) {
            // The log gives a spare its name meanwhile, which is removed next.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            return remove_all(disk);
        }
    }
}

#[test]
fn a_log_whose_files_are_removed_goes_on_in_another_one_and_the_next_start_has_the_rest() {
    for sync in [ALWAYS, RARELY] {
        let disk = SimulatedDisk::new();
        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        wait(|done| log.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
        append_range(&log, 0..10, 100);
        assert!(!wal.look_for_files().unwrap());
        remove_all(&disk);
        assert!(wal.look_for_files().unwrap());
        let refused = wal.reserve(100).unwrap_err();
        assert!(matches!(&refused, WalError::Gone { .. }), "{refused}");
        assert!(refused.is_retryable());
        assert!(refused.to_string().contains("/wal/0000000000000001.wal"));
        assert!(wal.trouble().is_some());

        // What is on its way is written where it lasts.
        append_range(&log, 10..20, 100);
        assert_eq!(read_all(&log).len(), 20);
        log.purge(position(1, 9), Bytes::new());
        wal.sync().unwrap();
        until("nothing is needed of what is gone", || {
            !wal.look_for_files().unwrap()
        });
        assert!(wal.trouble().is_none());
        drop(wal.reserve(100).unwrap());
        append_range(&log, 20..30, 100);
        wal.sync().unwrap();
        drop((log, wal));

        let wal = open(&disk, sync);
        let log = wal.shard(ShardId(1));
        assert_eq!(log.state().vote.as_deref(), Some(&b"vote"[..]));
        assert_eq!(read_all(&log).len(), 20);
    }
}

#[test]
fn files_that_were_prepared_are_replaced_when_they_are_gone() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(ShardId(1));
    append_range(&log, 0..1, 100);
    let prepared = || {
        assert!(!wal.look_for_files().unwrap(), "a segment is missed");
        let there = disk.list(Path::new("/wal")).unwrap().into_iter();
        let first = segment_files(&disk).into_iter().next();
        let others = there.map(|entry| entry.path);
        others.filter(|path| Some(path) != first.as_ref()).collect()
    };
    until("files are prepared", || {
        let prepared: Vec<_> = prepared();
        prepared.len() > 1
    });
    let gone: Vec<_> = prepared();
    for path in &gone {
        // One that is on its way may have another name by now.
        let _ = disk.remove_file(path);
    }
    until("others are prepared", || prepared().len() > 1);
    assert!(wal.trouble().is_none());
    let mut index = 1;
    let mut filled = 0;
    while filled < 3 * SEGMENT_BYTES_MIN {
        append_range(&log, index..index + 1, 20_000);
        (index, filled) = (index + 1, filled + 20_000);
    }
    drop((log, wal));
    let wal = open(&disk, ALWAYS);
    assert_eq!(read_all(&wal.shard(ShardId(1))).len() as u64, index);
}
