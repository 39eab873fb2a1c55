//! Ten thousand partitions: idle ones cost memory only, and little; a checkpoint of all of them
//! costs few syncs.

use super::*;
use crate::disk::CrashKeep;

const PARTITIONS: u32 = 10_000;

fn open_all(store: &LogStore, checkpoints: &[LogCheckpoint]) -> Vec<PartitionLog> {
    let none = LogCheckpoint::default();
    (0..PARTITIONS)
        .map(|index| {
            let checkpoint = checkpoints.get(index as usize).unwrap_or(&none);
            let opened = store.open_partition(partition(index), LogOptions::default(), checkpoint);
            opened.unwrap()
        })
        .collect()
}

#[test]
fn an_idle_partition_touches_no_disk_and_is_small() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, LogStoreOptions::default());
    let before = disk.operations();
    let logs = open_all(&store, &[]);
    assert_eq!(disk.operations(), before);
    assert_eq!(store.len(), logs.len());
    let bytes = size_of::<super::partition::Log>() + size_of::<PartitionLog>() + 64;
    assert!(bytes < 1024, "{bytes} bytes each");
}

#[test]
fn a_checkpoint_of_all_takes_one_sync_and_recovers_all() {
    let disk = SimulatedDisk::new();
    let store = open_store(&disk, manual());
    let logs = open_all(&store, &[]);
    for log in &logs {
        log.append(batch(0, &[&log.id().index.to_le_bytes()]));
    }
    store.flush_all().unwrap();
    let before = disk.operations();
    let ends: Vec<_> = logs.iter().map(|log| (log.clone(), Offset(1))).collect();
    let checkpoints = store.checkpoint(&ends).unwrap();
    assert_eq!(disk.operations() - before, 1, "one sync of the file system");
    assert!(logs[0].log.store.files.len() <= LogStoreOptions::default().open_files_max);

    let disk = disk.crash(CrashKeep::Nothing);
    let store = open_store(&disk, manual());
    for log in open_all(&store, &checkpoints) {
        let found = read_all(&log.reader(), Offset(0)).unwrap();
        assert_eq!(found, [batch(0, &[&log.id().index.to_le_bytes()])]);
    }
}
