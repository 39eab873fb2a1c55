//! What the WAL promises, on a disk that crashes, fills up and fails.

mod crash;
mod damage;
mod everyday;
mod faults;
mod gone;
mod moved;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{record::record_bytes, *};
use crate::disk::{CrashKeep, FaultPlan, SimulatedDisk};

/// The longest that a test waits for something that should happen soon.
const PATIENCE: Duration = Duration::from_secs(20);

const ALWAYS: SyncPolicy = SyncPolicy::Always;
/// So long that no sync comes but those that are asked for.
const RARELY: SyncPolicy = SyncPolicy::Every(SYNC_INTERVAL_MAX);

fn options(sync: SyncPolicy) -> WalOptions {
    WalOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
        bytes_max: SEGMENT_BYTES_MIN * 8,
        sync,
        ..WalOptions::new("/wal")
    }
}

fn try_open(disk: &SimulatedDisk, sync: SyncPolicy) -> Result<Wal, OpenError> {
    Wal::open(Arc::new(disk.clone()), options(sync), Arc::new(()))
}

fn open(disk: &SimulatedDisk, sync: SyncPolicy) -> Wal {
    try_open(disk, sync).unwrap()
}

/// A payload that tells where it belongs.
fn payload(shard: ShardId, term: u64, index: u64, size: usize) -> Bytes {
    let seed = format!("{shard}/{term}/{index};");
    seed.bytes().cycle().take(size).collect::<Vec<_>>().into()
}

fn entry(shard: ShardId, term: u64, index: u64, size: usize) -> WalEntry {
    WalEntry {
        term,
        index,
        payload: vec![payload(shard, term, index, size)],
    }
}

/// Calls `operation` with a callback, and waits for it.
fn wait(
    operation: impl FnOnce(Box<dyn FnOnce(Result<(), WalError>) + Send>),
) -> Result<(), WalError> {
    let (tx, rx) = mpsc::channel();
    operation(Box::new(move |result| drop(tx.send(result))));
    rx.recv_timeout(PATIENCE).expect("the callback is called")
}

fn append(log: &ShardLog, entries: Vec<WalEntry>) -> Result<(), WalError> {
    wait(|done| log.append(entries, done))
}

/// Appends entries of term 1 with these indexes, one by one.
fn append_range(log: &ShardLog, range: Range<u64>, size: usize) {
    for index in range {
        append(log, vec![entry(log.id(), 1, index, size)]).unwrap();
    }
}

fn read_all(log: &ShardLog) -> Vec<WalEntry> {
    let state = log.state();
    match (state.first, state.last) {
        (Some(first), Some(last)) => log.read(first..last.index + 1, usize::MAX).unwrap(),
        _ => Vec::new(),
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The files of the log, without spares, in order.
fn segment_files(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let entries = disk.list(Path::new("/wal")).unwrap();
    let paths = entries.into_iter().map(|entry| entry.path);
    paths
        .filter(|path| path.extension().unwrap() == "wal")
        .collect()
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term, index }
}
