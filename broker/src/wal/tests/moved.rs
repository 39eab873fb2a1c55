//! Entries that go to the end of the log, out of the way of others.

use super::{
    damage::{contents, copy},
    *,
};

const STAYS: ShardId = ShardId(1);
const COMES: ShardId = ShardId(2);
const ENTRIES: u64 = 20;

fn expected() -> Vec<WalEntry> {
    (0..ENTRIES).map(|n| entry(STAYS, 1, n, 1_000)).collect()
}

/// Appends entries of another shard, and purges them, until so many segments were filled; moves what
/// stays whenever it is asked for.
fn fill_segments(wal: &Wal, count: u64) {
    let log = wal.shard(COMES);
    let mut wanted = wal.checkpoint_wanted();
    wanted.mark_unchanged();
    let start = log.state().last.map_or(0, |last| last.index + 1);
    for index in start..start + count * SEGMENT_BYTES_MIN / 10_000 {
        let reservation = loop {
            match wal.reserve(10_000) {
                Ok(reservation) => break reservation,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            // Whoever finds it full asks for it, too.
            wal.move_on(&[STAYS]).unwrap();
            wal.sync().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        };
        append(&log, vec![entry(COMES, 1, index, 10_000)]).unwrap();
        drop(reservation);
        log.purge(position(1, index), Bytes::new());
        if wanted.has_changed().unwrap() {
            wanted.mark_unchanged();
            wal.move_on(&[STAYS]).unwrap();
        }
    }
}

#[test]
fn entries_that_stay_hold_back_no_others_and_survive_restarts_and_crashes() {
    for sync in [ALWAYS, RARELY] {
        let mut disk = SimulatedDisk::new();
        let wal = open(&disk, sync);
        append(&wal.shard(STAYS), expected()).unwrap();
        wal.sync().unwrap();
        wal.shutdown().unwrap();
        for life in 0..4 {
            let wal = open(&disk, sync);
            let log = wal.shard(STAYS);
            assert_eq!(read_all(&log), expected(), "life {life}");
            fill_segments(&wal, 20);
            assert_eq!(read_all(&log), expected(), "life {life}");
            assert!(wal.usage().bytes <= wal.usage().bytes_max);
            if life % 2 == 0 {
                wal.shutdown().unwrap();
            } else {
                disk = disk.crash(CrashKeep::Nothing);
            }
        }
        let wal = open(&disk, sync);
        let log = wal.shard(STAYS);
        assert_eq!(read_all(&log), expected());
        log.purge(position(1, ENTRIES - 1), Bytes::new());
        wal.sync().unwrap();
        until("all that was moved is free", || {
            wal.shards_to_checkpoint().is_empty()
        });
    }
}

#[test]
fn a_shard_with_much_of_the_log_stays_where_it_is() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    append_range(&wal.shard(STAYS), 0..14, 10_000);
    let before = wal.usage();
    wal.move_on(&[STAYS]).unwrap();
    assert_eq!(wal.usage(), before);
}

#[test]
fn nothing_moves_while_the_oldest_segment_has_to_stay_for_a_shard_that_is_open() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(COMES);
    append_range(&log, 0..1, 10);
    append(&wal.shard(STAYS), expected()).unwrap();
    append_range(&log, 1..31, 10_000);
    let before = wal.usage();
    wal.move_on(&[STAYS]).unwrap();
    assert_eq!(wal.usage(), before, "it would only grow");
    assert_eq!(read_all(&wal.shard(STAYS)), expected());

    log.purge(position(1, 20), Bytes::new());
    wal.sync().unwrap();
    wal.move_on(&[STAYS]).unwrap();
    wal.sync().unwrap();
    until("there is more room than before", || {
        wal.usage().bytes < before.bytes
    });
    assert_eq!(read_all(&wal.shard(STAYS)), expected());
}

#[test]
fn a_crash_at_any_operation_of_the_disk_keeps_what_moves() {
    let prepared = SimulatedDisk::new();
    let wal = open(&prepared, ALWAYS);
    append(&wal.shard(STAYS), expected()).unwrap();
    append_range(&wal.shard(COMES), 0..25, 10_000);
    wal.shard(COMES).purge(position(1, 24), Bytes::new());
    wal.sync().unwrap();
    wal.shutdown().unwrap();
    let files = contents(&prepared);
    let mut crashes = 0;
    for at in 0.. {
        let disk = copy(&files);
        let wal = open(&disk, ALWAYS);
        disk.set_faults(FaultPlan {
            crash_in: Some(at),
            ..FaultPlan::default()
        });
        let moved = wal.move_on(&[STAYS]).and_then(|()| wal.sync());
        append(&wal.shard(COMES), vec![entry(COMES, 1, 25, 10)]).ok();
        let is_done = moved.is_ok() && !disk.is_down();
        let disk = disk.crash(CrashKeep::Random(at));
        drop(wal);
        let wal = open(&disk, ALWAYS);
        assert_eq!(read_all(&wal.shard(STAYS)), expected(), "crash at {at}");
        wal.shutdown().unwrap();
        if is_done {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 3, "{crashes}");
}

#[test]
fn a_log_cut_at_any_byte_of_what_moved_has_all_entries() {
    const SMALL: u64 = 3;
    let disk = SimulatedDisk::new();
    let wal = open(&disk, RARELY);
    let log = wal.shard(STAYS);
    append_range(&log, 0..SMALL, 40);
    // Far enough on for the first segments to be the older half.
    append_range(&wal.shard(COMES), 0..25, 10_000);
    wal.shard(COMES).purge(position(1, 24), Bytes::new());
    wal.sync().unwrap();
    let start = wal.usage().bytes % SEGMENT_BYTES_MIN;
    wal.move_on(&[STAYS]).unwrap();
    let end = wal.usage().bytes % SEGMENT_BYTES_MIN;
    let moved = SMALL * record_bytes(40);
    assert_eq!(end - start, moved, "the entries are written again");
    let active = 1 + wal.usage().bytes / SEGMENT_BYTES_MIN;
    let active = segment::segment_path(Path::new("/wal"), active);
    let files = contents(&disk);
    drop(wal);
    let zeros = vec![0; moved as usize];
    for cut in start..=end {
        let disk = copy(&files);
        let file = disk.open(&active).unwrap();
        file.write_all_at(&zeros[..(end - cut) as usize], cut)
            .unwrap();
        let wal = open(&disk, ALWAYS);
        let log = wal.shard(STAYS);
        let expected: Vec<_> = (0..SMALL).map(|n| entry(STAYS, 1, n, 40)).collect();
        assert_eq!(read_all(&log), expected, "cut at {cut}");
        wal.shutdown().unwrap();
    }
}
