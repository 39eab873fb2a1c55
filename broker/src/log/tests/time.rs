//! Lookups by time, at every edge.

use std::path::Path;

use super::*;

#[test]
fn the_first_record_late_enough_is_found_at_every_edge_though_times_do_not_rise() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    let mut times: Vec<i64> = Vec::new();
    for n in 0..60_u64 {
        let mut builder = BatchBuilder::new();
        for k in 0..3 {
            // Rises on the whole, with steps back, repetitions and gaps; some before 1970.
            let time = (n as i64 * 10 - 50) + [0, 25, -13][((n + k) % 3) as usize];
            builder.push(&RecordRef::new(time, &[7; 20])).unwrap();
            times.push(time);
        }
        let batch = builder.build(Codec::Lz4).unwrap();
        log.append(batch.placed(Offset(n * 3), n));
        if n == 40 {
            log.flush().unwrap();
        }
    }
    let check = |reader: LogReader, start: u64| {
        for time in -80..600 {
            let found = reader.offset_for_time(time).unwrap();
            let mut expected = times.iter().enumerate().skip(start as usize);
            let expected = expected.find(|(_, t)| **t >= time);
            let expected = expected.map(|(at, _)| Offset(at as u64));
            assert_eq!(found, expected, "at {time}");
        }
        assert_eq!(
            reader.offset_for_time(i64::MIN).unwrap(),
            Some(Offset(start))
        );
        assert_eq!(reader.offset_for_time(i64::MAX).unwrap(), None);
    };
    check(log.reader(), 0);
    log.flush().unwrap();
    check(log.reader(), 0);
    let checkpoint = log.checkpoint().unwrap();
    let store = open_store(&disk, manual());
    let log = store
        .open_partition(partition(0), small(), &checkpoint)
        .unwrap();
    check(log.reader(), 0);
    log.configure(LogOptions {
        retention_bytes: Some(2000),
        ..small()
    });
    log.enforce_retention(0).unwrap();
    let start = log.reader().start_offset().0;
    assert!(start > 0);
    check(log.reader(), start);
}

#[test]
fn a_lookup_that_meets_damage_says_where_and_notes_it() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    append_all(&log, &batches(12));
    let checkpoint = log.checkpoint().unwrap();
    let store = open_store(&disk, manual());
    let log = store.open_partition(partition(0), small(), &checkpoint);
    let reader = log.unwrap().reader();
    let path = Path::new(DIR).join("7/p0-00000000000000000000-0.segment");
    let file = disk.open(&path).unwrap();
    let before = file.len().unwrap();
    file.write_all_at(&[0xff; 40], before / 2).unwrap();
    let found = reader.offset_for_time(i64::MAX - 1);
    assert_eq!(found.unwrap(), None, "no segment is late enough");
    assert_eq!(store.damaged(), []);
    let damaged = (0..1000).find_map(|time| reader.offset_for_time(time).err());
    assert!(matches!(damaged, Some(ReadError::Damaged { .. })));
    assert_eq!(store.damaged(), [partition(0)]);
}

#[test]
fn an_empty_log_has_no_offset_for_any_time() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let log = open_new(&store, small());
    assert_eq!(log.reader().offset_for_time(i64::MIN).unwrap(), None);
}
