//! The conformance suite of [`Disk`], run against every implementation, and what only the
//! simulated one can show.

use std::{io::IoSlice, path::PathBuf};

use super::*;

/// Runs a test against both disks, each with an empty directory of its own.
fn on_both(test: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(&RealDisk, dir.path());
    let simulated = SimulatedDisk::new();
    let dir = PathBuf::from("/data");
    simulated.create_dir_all(&dir).unwrap();
    test(&simulated, &dir);
}

fn contents(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    read_file(disk, path, 1 << 20).unwrap().unwrap()
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let entries = disk.list(dir).unwrap();
    entries.iter().map(|e| e.name().unwrap().into()).collect()
}

#[test]
fn what_is_written_is_read_at_any_position() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"hello world", 0).unwrap();
        file.write_all_at(b"W", 6).unwrap();
        assert_eq!(file.len().unwrap(), 11);
        let mut buffer = [0; 5];
        assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 5);
        assert_eq!(&buffer, b"World");
        assert_eq!(file.read_at(&mut buffer, 9).unwrap(), 2);
        assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
        let error = file.read_exact_at(&mut buffer, 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn reading_onto_a_buffer_appends_no_more_than_asked() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut buffer = Vec::with_capacity(100);
        buffer.push(b'>');
        assert_eq!(file.read_onto(&mut buffer, 3, 2).unwrap(), 3);
        assert_eq!(buffer, b">234");
        assert_eq!(file.read_onto(&mut buffer, 5, 8).unwrap(), 2);
        assert_eq!(buffer, b">23489");
        assert_eq!(file.read_onto(&mut buffer, 5, 10).unwrap(), 0);
    });
}

#[test]
fn what_is_written_through_is_read_whatever_its_place_and_size() {
    const MIB: usize = 1 << 20;
    on_both(|disk, dir| {
        let path = dir.join("a");
        let file = disk.create(&path).unwrap();
        let mut expected = Vec::new();
        let sizes = [
            3,
            MIB,
            4096,
            2 * MIB + 5,
            300_000,
            1,
            256 * 1024,
            5 * MIB - 1,
        ];
        for (number, size) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
            let at = expected.len() as u64;
            let (front, back) = bytes.split_at(size / 3);
            let mut slices = [IoSlice::new(front), IoSlice::new(&[]), IoSlice::new(back)];
            file.write_through(&mut slices, at).unwrap();
            expected.extend_from_slice(&bytes);
            // What lies before in the same block is still there.
            let start = expected.len().saturating_sub(size + 5000);
            let mut read = vec![0; expected.len() - start];
            file.read_exact_at(&mut read, start as u64).unwrap();
            assert!(read == expected[start..], "after write {number}");
        }
        // Over what is there, and between other writes.
        file.write_all_at(b"xyz", 8190).unwrap();
        expected[8190..8193].copy_from_slice(b"xyz");
        let again = vec![9; MIB];
        file.write_through(&mut [IoSlice::new(&again)], 8193)
            .unwrap();
        expected[8193..8193 + MIB].fill(9);
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), expected.len() as u64);
        let mut read = vec![0; expected.len()];
        disk.open(&path)
            .unwrap()
            .read_exact_at(&mut read, 0)
            .unwrap();
        assert!(read == expected);
    });
}

/// `len` bytes that begin `into_block` behind the boundary of a block in memory.
fn lying_at(into_block: usize, len: usize, seed: usize) -> (Vec<u8>, std::ops::Range<usize>) {
    let mut memory = vec![0; len + 2 * BLOCK_BYTES];
    let address = memory.as_ptr().addr();
    let start = address.next_multiple_of(BLOCK_BYTES) - address + into_block;
    for (at, byte) in memory[start..start + len].iter_mut().enumerate() {
        *byte = (at * 31 + at / 4096 + seed) as u8;
    }
    (memory, start..start + len)
}

#[test]
fn what_lies_at_blocks_in_memory_is_written_as_well_as_what_does_not() {
    const BODIES: [usize; 6] = [1 << 20, 4096, 65_536, 100_001, 3, 300_000];
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        for (round, into_block) in [0, 1, 512, 4095].into_iter().enumerate() {
            for into_file in [0, 92, 4096, 4195] {
                let bodies: Vec<_> = BODIES
                    .iter()
                    .map(|&len| lying_at(into_block, len, round))
                    .collect();
                let front = [round as u8; 92];
                let mut slices = Vec::new();
                let mut expected = Vec::new();
                for (memory, range) in &bodies {
                    let body = &memory[range.clone()];
                    let end = into_file + expected.len() + front.len();
                    let padding = end.next_multiple_of(BLOCK_BYTES) - end;
                    for part in [&front[..], &[0; BLOCK_BYTES][..padding], body] {
                        expected.extend_from_slice(part);
                    }
                    slices.push(IoSlice::new(&front));
                    slices.push(IoSlice::new(&[0; BLOCK_BYTES][..padding]));
                    slices.push(IoSlice::new(body));
                }
                file.write_through(&mut slices, into_file as u64).unwrap();
                let mut read = vec![0; expected.len()];
                file.read_exact_at(&mut read, into_file as u64).unwrap();
                assert!(read == expected, "{into_block} {into_file}");
            }
        }
    });
}

#[test]
fn many_slices_are_written_in_order_empty_ones_too() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        let numbers: Vec<Vec<u8>> = (0..5000u32)
            .map(|n| {
                if n % 3 == 0 {
                    vec![]
                } else {
                    n.to_le_bytes().to_vec()
                }
            })
            .collect();
        let mut slices: Vec<_> = numbers.iter().map(|bytes| IoSlice::new(bytes)).collect();
        file.write_at(&mut slices, 7).unwrap();
        let mut expected = vec![0; 7];
        expected.extend(numbers.concat());
        assert_eq!(contents(disk, &dir.join("a")), expected);
        file.write_at(&mut [], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&[]), IoSlice::new(&[])], 0)
            .unwrap();
        assert_eq!(contents(disk, &dir.join("a")), expected);
    });
}

#[test]
fn a_write_past_the_end_leaves_zeros_between() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"x", 3).unwrap();
        assert_eq!(contents(disk, &dir.join("a")), b"\0\0\0x");
    });
}

#[test]
fn set_len_cuts_and_extends() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"abcdef", 0).unwrap();
        file.set_len(3).unwrap();
        file.set_len(5).unwrap();
        assert_eq!(contents(disk, &dir.join("a")), b"abc\0\0");
    });
}

#[test]
fn allocate_extends_with_zeros_and_keeps_what_is_there() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file.allocate(100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        let bytes = contents(disk, &dir.join("a"));
        assert_eq!(&bytes[..3], b"abc");
        assert!(bytes[3..].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn names_are_created_listed_renamed_and_removed() {
    on_both(|disk, dir| {
        for name in ["b", "c", "a"] {
            disk.create(&dir.join(name)).unwrap();
        }
        disk.create_dir_all(&dir.join("d/e/f")).unwrap();
        disk.create_dir_all(&dir.join("d/e/f")).unwrap();
        disk.create(&dir.join("d/e/x")).unwrap();
        assert_eq!(names(disk, dir), ["a", "b", "c", "d"]);
        assert!(disk.list(dir).unwrap()[3].is_dir);
        disk.rename(&dir.join("a"), &dir.join("z")).unwrap();
        disk.rename(&dir.join("d/e"), &dir.join("d/g")).unwrap();
        assert_eq!(names(disk, dir), ["b", "c", "d", "z"]);
        assert_eq!(names(disk, &dir.join("d/g")), ["f", "x"]);
        disk.remove_file(&dir.join("b")).unwrap();
        disk.remove_dir_all(&dir.join("d")).unwrap();
        disk.sync_dir(dir).unwrap();
        assert_eq!(names(disk, dir), ["c", "z"]);
        assert!(disk.free_bytes(dir).unwrap() > 0);
    });
}

#[test]
fn a_rename_replaces_and_open_handles_follow_their_file() {
    on_both(|disk, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let first = disk.create(&a).unwrap();
        first.write_all_at(b"first", 0).unwrap();
        let second = disk.create(&b).unwrap();
        second.write_all_at(b"second", 0).unwrap();
        disk.rename(&a, &b).unwrap();
        assert_eq!(contents(disk, &b), b"first");
        first.write_all_at(b"F", 0).unwrap();
        assert_eq!(contents(disk, &b), b"First");
        // The replaced file has no name any more, but lives as long as its handle.
        let mut buffer = [0; 6];
        second.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"second");
        disk.remove_file(&b).unwrap();
        first.write_all_at(b"f", 0).unwrap();
        first.sync_data().unwrap();
    });
}

#[test]
fn creating_over_a_file_empties_it() {
    on_both(|disk, dir| {
        let path = dir.join("a");
        disk.create(&path).unwrap().write_all_at(b"old", 0).unwrap();
        assert_eq!(disk.create(&path).unwrap().len().unwrap(), 0);
    });
}

#[test]
fn what_is_missing_is_not_found() {
    on_both(|disk, dir| {
        let missing = dir.join("missing");
        let kinds = [
            disk.open(&missing).unwrap_err().kind(),
            disk.list(&missing).unwrap_err().kind(),
            disk.remove_file(&missing).unwrap_err().kind(),
            disk.rename(&missing, &dir.join("x")).unwrap_err().kind(),
            disk.create(&missing.join("x")).unwrap_err().kind(),
            disk.sync_dir(&missing).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [io::ErrorKind::NotFound; 6]);
        assert!(read_file(disk, &missing, 10).unwrap().is_none());
    });
}

#[test]
fn an_atomic_write_replaces_the_whole_file_and_leaves_nothing_behind() {
    on_both(|disk, dir| {
        let path = dir.join("checkpoint");
        write_file_atomically(disk, &path, b"a long first version").unwrap();
        write_file_atomically(disk, &path, b"second").unwrap();
        assert_eq!(contents(disk, &path), b"second");
        assert_eq!(names(disk, dir), ["checkpoint"]);
        let error = read_file(disk, &path, 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    });
}

#[test]
fn an_atomic_write_is_whole_after_a_crash_at_every_operation() {
    let path = Path::new("/checkpoint");
    let (old, new) = (vec![1; 3000], vec![2; 5000]);
    for crash_in in 0.. {
        let mut finished = false;
        for seed in 0..20 {
            let disk = SimulatedDisk::new();
            write_file_atomically(&disk, path, &old).unwrap();
            disk.set_faults(FaultPlan {
                crash_in: Some(crash_in),
                ..FaultPlan::default()
            });
            let result = write_file_atomically(&disk, path, &new);
            finished = !disk.is_down();
            let disk = disk.crash(CrashKeep::Random(seed));
            let found = contents(&disk, path);
            if result.is_ok() {
                assert_eq!(found, new, "lost after the write returned");
            } else {
                assert!(found == old || found == new, "torn at operation {crash_in}");
            }
        }
        if finished {
            assert!(
                crash_in >= 5,
                "create, write, sync, rename, sync of the directory"
            );
            return;
        }
    }
}

#[test]
fn an_atomic_write_on_a_full_disk_keeps_the_old_file_and_frees_its_space() {
    let disk = SimulatedDisk::new();
    let path = Path::new("/checkpoint");
    write_file_atomically(&disk, path, b"old").unwrap();
    disk.set_faults(FaultPlan {
        capacity_bytes: Some(10),
        ..FaultPlan::default()
    });
    let error = write_file_atomically(&disk, path, &[0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(contents(&disk, path), b"old");
    write_file_atomically(&disk, path, b"newer").unwrap();
    assert_eq!(contents(&disk, path), b"newer");
}

#[test]
fn a_crash_keeps_what_was_synced_and_ends_the_life_of_handles() {
    let disk = SimulatedDisk::new();
    let path = Path::new("/a");
    let file = disk.create(path).unwrap();
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    let unnamed = disk.crash(CrashKeep::Nothing);
    assert!(unnamed.open(path).is_err(), "the name was not synced");

    let disk = unnamed;
    let file = disk.create(path).unwrap();
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_all_at(b"lost", 0).unwrap();
    let next = disk.crash(CrashKeep::Nothing);
    assert_eq!(contents(&next, path), b"synced");
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(disk.create(path).is_err());
    let file = next.open(path).unwrap();
    file.write_all_at(b"KEPT", 0).unwrap();
    let last = next.crash(CrashKeep::Everything);
    assert_eq!(contents(&last, path), b"KEPTed");
}

#[test]
fn a_torn_write_keeps_whole_sectors() {
    let mut torn = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        let path = Path::new("/a");
        let file = disk.create(path).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(&[2; 4096], 0).unwrap();
        let bytes = contents(&disk.crash(CrashKeep::Random(seed)), path);
        for sector in bytes.chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512]);
        }
        torn += u32::from(bytes.contains(&1) && bytes.contains(&2));
    }
    assert!(torn > 5, "only {torn} of 50 crashes tore the write");
}

#[test]
fn a_failed_sync_loses_what_it_should_have_kept() {
    for keep in [CrashKeep::Nothing, CrashKeep::Everything] {
        let disk = SimulatedDisk::new();
        let path = Path::new("/a");
        let file = disk.create(path).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(b"data", 0).unwrap();
        disk.set_faults(FaultPlan {
            fail_sync_in: Some(0),
            ..FaultPlan::default()
        });
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(contents(&disk, path), b"data");
        assert!(contents(&disk.crash(keep), path).is_empty(), "{keep:?}");
    }
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = SimulatedDisk::new();
    disk.set_faults(FaultPlan {
        capacity_bytes: Some(100),
        ..FaultPlan::default()
    });
    let file = disk.create(Path::new("/a")).unwrap();
    file.allocate(100).unwrap();
    let full = io::ErrorKind::StorageFull;
    assert_eq!(file.allocate(101).unwrap_err().kind(), full);
    assert_eq!(file.write_all_at(b"xy", 99).unwrap_err().kind(), full);
    file.write_all_at(b"xy", 98).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
}

#[test]
fn one_sync_of_the_file_system_keeps_files_and_names() {
    on_both(|disk, dir| {
        let file_system = disk.file_system(dir).unwrap();
        for name in ["a", "b"] {
            let file = disk.create(&dir.join(name)).unwrap();
            file.write_all_at(b"synced", 0).unwrap();
        }
        file_system.sync().unwrap();
        assert_eq!(contents(disk, &dir.join("b")), b"synced");
    });
    let disk = SimulatedDisk::new();
    let file_system = disk.file_system(Path::new("/")).unwrap();
    let file = disk.create(Path::new("/a")).unwrap();
    file.write_all_at(b"synced", 0).unwrap();
    file_system.sync().unwrap();
    file.write_all_at(b"UNSYNC", 0).unwrap();
    let disk = disk.crash(CrashKeep::Nothing);
    assert_eq!(contents(&disk, Path::new("/a")), b"synced");
    assert!(file_system.sync().is_err(), "its life has ended");
}

#[test]
fn a_directory_that_is_made_again_stays_with_what_is_synced_in_it() {
    let disk = SimulatedDisk::new();
    let (dir, file) = (Path::new("/dir"), Path::new("/dir/file"));
    disk.create_dir_all(dir).unwrap();
    disk.remove_dir_all(dir).unwrap();
    disk.create_dir_all(dir).unwrap();
    disk.create(file).unwrap();
    disk.sync_dir(dir).unwrap();
    for keep in [CrashKeep::Everything, CrashKeep::Nothing] {
        assert!(disk.crash(keep).open(file).is_ok(), "{keep:?}");
    }
}
