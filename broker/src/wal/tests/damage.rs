//! Files that were cut, flipped, removed or replaced while nobody looked.

use super::*;
use crate::disk::read_file;

const SHARD: ShardId = ShardId(5);
const SEGMENT: &str = "/wal/0000000000000001.wal";

pub(super) fn copy(files: &[(PathBuf, Vec<u8>)]) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.create_dir_all(Path::new("/wal")).unwrap();
    for (path, bytes) in files {
        let file = disk.create(path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    for dir in ["/", "/wal"] {
        disk.sync_dir(Path::new(dir)).unwrap();
    }
    disk
}

pub(super) fn contents(disk: &SimulatedDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = disk.list(Path::new("/wal")).unwrap();
    let read = |path: PathBuf| {
        let bytes = read_file(disk, &path, usize::MAX).unwrap().unwrap();
        (path, bytes)
    };
    entries.into_iter().map(|entry| read(entry.path)).collect()
}

/// A log of one segment, with ten entries that were synced one by one; and where each begins, and
/// the last ends.
fn sample() -> (Vec<(PathBuf, Vec<u8>)>, Vec<u64>) {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(SHARD);
    let mut starts = Vec::new();
    for index in 0..10 {
        append_range(&log, index..index + 1, 30 + index as usize);
        let size = record_bytes(30 + index);
        starts.push(wal.usage().bytes - size);
        if index == 9 {
            starts.push(wal.usage().bytes);
        }
    }
    wal.shutdown().unwrap();
    let mut files = contents(&disk);
    files.retain(|(path, _)| path == Path::new(SEGMENT));
    assert_eq!(files.len(), 1);
    (files, starts)
}

/// Opens, and checks that there are exactly the first `count` entries, and that it goes on.
fn assert_first(disk: &SimulatedDisk, count: u64) {
    let wal = open(disk, ALWAYS);
    let log = wal.shard(SHARD);
    let expected: Vec<_> = (0..count)
        .map(|n| entry(SHARD, 1, n, 30 + n as usize))
        .collect();
    assert_eq!(read_all(&log), expected);
    append(&log, vec![entry(SHARD, 2, count, 3)]).unwrap();
    wal.shutdown().unwrap();
    let entries = read_all(&open(disk, ALWAYS).shard(SHARD));
    assert_eq!(entries.len() as u64, count + 1);
    assert_eq!(entries[count as usize], entry(SHARD, 2, count, 3));
}

#[test]
fn a_file_cut_at_any_byte_keeps_the_whole_records_before() {
    let (files, starts) = sample();
    for cut in starts[7]..=starts[10] {
        let mut files = files.clone();
        files[0].1.truncate(cut as usize);
        // The padding behind a payload means nothing.
        let whole = (0..10).filter(|n| starts[*n] + 56 + 30 + *n as u64 <= cut);
        assert_first(&copy(&files), whole.count() as u64);
    }
}

#[test]
fn a_tail_of_zeros_from_any_byte_keeps_the_whole_records_before() {
    let (files, starts) = sample();
    let end = starts[9] + 56 + 39;
    for cut in starts[9]..=starts[10] {
        let mut files = files.clone();
        files[0].1[cut as usize..].fill(0);
        assert_first(&copy(&files), if cut >= end { 10 } else { 9 });
    }
}

#[test]
fn a_flipped_byte_in_the_last_record_cuts_it() {
    let (files, starts) = sample();
    for at in starts[9]..starts[9] + 56 + 39 {
        let mut files = files.clone();
        files[0].1[at as usize] ^= 0x40;
        assert_first(&copy(&files), 9);
    }
}

#[test]
fn a_flipped_byte_before_the_last_record_is_refused_by_file_and_position() {
    let (files, starts) = sample();
    for (number, start) in starts[..9].iter().enumerate() {
        for at in *start..*start + 56 + 30 + number as u64 {
            let mut files = files.clone();
            files[0].1[at as usize] ^= 0x01;
            let disk = copy(&files);
            match try_open(&disk, ALWAYS).map(|_| ()) {
                Err(OpenError::Damaged { path, position, .. }) => {
                    assert_eq!((path.as_path(), position), (Path::new(SEGMENT), *start));
                }
                other => panic!("byte {at}: {other:?}"),
            }
            assert_eq!(contents(&disk), files, "a damaged log is not touched");
        }
    }
}

#[test]
fn a_flipped_byte_in_the_header_is_refused() {
    let (files, _) = sample();
    for at in 0..44 {
        for bit in 0..8 {
            let mut files = files.clone();
            files[0].1[at] ^= 1 << bit;
            match try_open(&copy(&files), ALWAYS).map(|_| ()) {
                Err(OpenError::Damaged { path, .. } | OpenError::NewerVersion { path, .. }) => {
                    assert_eq!(path, Path::new(SEGMENT));
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_log_of_a_newer_version_is_refused_with_both_versions() {
    let (mut files, _) = sample();
    files[0].1[8] = 2;
    let error = try_open(&copy(&files), ALWAYS).map(|_| ()).unwrap_err();
    assert!(matches!(
        error,
        OpenError::NewerVersion {
            found: 2,
            supported: 1,
            ..
        }
    ));
    assert!(error.to_string().contains("version 2"), "{error}");
}

/// Makes a whole record into one of a kind that nobody knows.
fn of_an_unknown_kind(record: &mut [u8]) {
    record[48] = 200;
    let crc = crc_fast::crc32_iscsi(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_whole_record_of_an_unknown_kind_is_refused_by_file_and_position_and_not_cut() {
    let (files, starts) = sample();
    for (number, start) in starts[..10].iter().enumerate() {
        let mut files = files.clone();
        let end = *start as usize + 56 + 30 + number;
        of_an_unknown_kind(&mut files[0].1[*start as usize..end]);
        let disk = copy(&files);
        let error = try_open(&disk, ALWAYS).map(|_| ()).unwrap_err();
        match &error {
            OpenError::NewerRecord {
                path,
                position,
                kind: 200,
            } => assert_eq!((path.as_path(), position), (Path::new(SEGMENT), start)),
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("newer version"), "{error}");
        assert_eq!(
            contents(&disk),
            files,
            "a log of a newer version is not touched"
        );
    }
}

/// A log of several segments; nothing purged.
fn long_sample() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    append_range(&wal.shard(SHARD), 0..50, 5000);
    wal.shutdown().unwrap();
    let mut files = contents(&disk);
    files.retain(|(path, _)| path.extension().unwrap() == "wal");
    let used = |(_, bytes): &&(_, Vec<u8>)| bytes[4096..].iter().any(|byte| *byte != 0);
    let count = files.iter().filter(used).count();
    assert!(count >= 5);
    // With one that stands by.
    files.truncate(count + 1);
    files
}

#[test]
fn a_missing_segment_is_refused_by_its_name() {
    let files = long_sample();
    // The last is the standby, which nothing is in; without it, the one before goes on in vain.
    for missing in 0..files.len() - 1 {
        let mut files = files.clone();
        let (path, _) = files.remove(missing);
        match try_open(&copy(&files), ALWAYS).map(|_| ()) {
            Err(OpenError::Missing { path: named, .. }) if missing > 0 => assert_eq!(named, path),
            Err(OpenError::Missing { .. }) => assert_eq!(missing, 0),
            other => panic!("{missing}: {other:?}"),
        }
    }
}

#[test]
fn missing_segments_at_the_end_are_noticed_by_the_seal_before() {
    let files = long_sample();
    let error = try_open(&copy(&files[..2]), ALWAYS)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
}

#[test]
fn damage_in_an_older_segment_is_refused() {
    let files = long_sample();
    for segment in 0..files.len() - 2 {
        for at in [4096, 4100, 20_000, 40_000] {
            let mut files = files.clone();
            files[segment].1[at] ^= 0x10;
            match try_open(&copy(&files), ALWAYS).map(|_| ()) {
                Err(OpenError::Damaged { path, .. }) => assert_eq!(path, files[segment].0),
                other => panic!("{segment}, byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn an_older_segment_that_was_emptied_is_refused() {
    let mut files = long_sample();
    files[1].1[4096..].fill(0);
    let error = try_open(&copy(&files), ALWAYS).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, OpenError::Damaged { position: 4096, .. }),
        "{error}"
    );
}

#[test]
fn damage_to_the_states_that_older_segments_were_removed_for_is_refused() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(SHARD);
    wait(|done| log.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
    append_range(&log, 0..14, 5000);
    log.purge(position(1, 13), Bytes::new());
    until("only the active segment is left", || {
        wal.usage().bytes < SEGMENT_BYTES_MIN
    });
    wal.shutdown().unwrap();
    let files = contents(&disk);
    let active = files
        .iter()
        .position(|(path, _)| path == Path::new("/wal/0000000000000002.wal"))
        .unwrap();
    let mut refused = 0;
    for at in 4096..4200 {
        let mut files = files.clone();
        files[active].1[at] ^= 0x01;
        match try_open(&copy(&files), ALWAYS).map(|wal| wal.shard(SHARD).state()) {
            Err(OpenError::Damaged { .. }) => refused += 1,
            // The padding between records means nothing.
            Ok(state) => assert_eq!(state.vote, Some(Bytes::from_static(b"vote")), "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 96);
}

#[test]
fn records_of_an_earlier_use_of_a_file_are_not_taken_for_new_ones() {
    let disk = SimulatedDisk::new();
    let mut next = 0;
    for life in 1..30 {
        let wal = open(&disk, ALWAYS);
        let log = wal.shard(SHARD);
        let last = log.state().last.map(|last| last.index + 1);
        assert_eq!(last, (next > 0).then_some(next), "life {life}");
        // All records of a life have the same size, so that stale ones stand where new ones would.
        append_range(&log, next..next + 23, 4000);
        next += 23;
        log.purge(position(1, next - 3), Bytes::new());
        wal.shutdown().unwrap();
    }
    let files = contents(&disk);
    assert!(files.len() <= 8);
}

#[test]
fn damage_under_a_running_log_is_noticed_by_the_read() {
    let disk = SimulatedDisk::new();
    let wal = open(&disk, ALWAYS);
    let log = wal.shard(SHARD);
    append_range(&log, 0..3, 100);
    let at = wal.usage().bytes - 20;
    disk.open(Path::new(SEGMENT))
        .unwrap()
        .write_all_at(b"?", at)
        .unwrap();
    assert_eq!(log.read(0..2, usize::MAX).unwrap().len(), 2);
    match log.read(0..3, usize::MAX) {
        Err(WalError::Damaged { path, position, .. }) => {
            assert_eq!(path, Path::new(SEGMENT));
            assert_eq!(position, wal.usage().bytes - record_bytes(100));
        }
        other => panic!("{other:?}"),
    }
}
