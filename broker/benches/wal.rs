//! The WAL on the real disk, against the disk itself.
//!
//! `cargo bench -p flumen-broker --bench wal`. Set `FLUMEN_BENCH_DIR` to choose the file system;
//! the default is the target directory, since a temporary directory may be in memory.

use std::{
    hint::black_box,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flumen_broker::{
    disk::{Disk, RealDisk},
    wal::{LogPosition, ShardLog, SyncPolicy, Wal, WalEntry, WalOptions},
};
use flumen_protocol::ids::ShardId;

const EVERY: SyncPolicy = SyncPolicy::Every(Duration::from_millis(100));
const MEBIBYTE: usize = 1 << 20;

/// A directory on a real file system, removed at the end.
fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("FLUMEN_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    tempfile::tempdir_in(parent).expect("the directory for the benchmark can be made")
}

fn open(dir: &Path, sync: SyncPolicy) -> Wal {
    let options = WalOptions {
        sync,
        ..WalOptions::new(dir.join("wal"))
    };
    Wal::open(RealDisk::shared(), options, Arc::new(())).expect("the WAL opens")
}

/// A shard's log that is purged behind what is appended, as checkpoints do.
struct Appender {
    wal: Wal,
    log: ShardLog,
    payload: Bytes,
    next: u64,
    purge_every: u64,
}

impl Appender {
    fn new(wal: &Wal, shard: u32, size: usize) -> Self {
        Self {
            wal: wal.clone(),
            log: wal.shard(ShardId(shard)),
            payload: vec![0x5a; size].into(),
            next: 0,
            purge_every: (64 * MEBIBYTE / (size + 64)) as u64,
        }
    }

    fn append(&mut self, done: impl FnOnce() + Send + 'static) {
        let entry = WalEntry {
            term: 1,
            index: self.next,
            payload: vec![self.payload.clone()],
        };
        let reservation = loop {
            match self.wal.reserve(self.payload.len() as u64) {
                Ok(reservation) => break reservation,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            thread::sleep(Duration::from_millis(1));
        };
        self.log.append(vec![entry], move |result| {
            result.expect("the append succeeds");
            drop(reservation);
            done();
        });
        if self.next % self.purge_every == self.purge_every - 1 {
            let position = LogPosition {
                term: 1,
                index: self.next - self.purge_every / 2,
            };
            self.log.purge(position, Bytes::new());
        }
        self.next += 1;
    }
}

impl Drop for Appender {
    /// Lets go of what is left, which would hold the segments of those that follow.
    fn drop(&mut self) {
        if let Some(last) = self.log.state().last {
            self.log.purge(last, Bytes::new());
        }
    }
}

/// Keeps so many appends in flight until `count` are done.
fn pump(appenders: &mut [Appender], in_flight: usize, count: u64) -> Duration {
    let (tx, rx) = mpsc::channel();
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < count {
        while sent < count && sent - done < in_flight as u64 {
            let tx = tx.clone();
            let at = sent as usize % appenders.len();
            appenders[at].append(move || tx.send(()).expect("the benchmark waits"));
            sent += 1;
        }
        rx.recv().expect("the callback is called");
        done += 1;
        done += rx.try_iter().count() as u64;
    }
    start.elapsed()
}

fn always(criterion: &mut Criterion) {
    let dir = directory();
    let mut group = criterion.benchmark_group("always");
    for in_flight in [1, 64, 1000] {
        let wal = open(dir.path(), SyncPolicy::Always);
        let mut appenders: Vec<_> = (0..16)
            .map(|shard| Appender::new(&wal, in_flight * 100 + shard, 100))
            .collect();
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("append_100B_in_flight_{in_flight}"), |bencher| {
            bencher.iter_custom(|count| pump(&mut appenders, in_flight as usize, count));
        });
    }
    // The limit: an overwrite of four KiB that are there, and its sync.
    let file = RealDisk.create(&dir.path().join("raw")).expect("a file");
    file.write_all_at(&vec![0; MEBIBYTE], 0).expect("a write");
    file.sync_data().expect("a sync");
    let bytes = vec![1; 4096];
    let mut at = 0;
    group.bench_function("raw_4KiB_overwrite_and_fdatasync", |bencher| {
        bencher.iter(|| {
            at = (at + 4096) % MEBIBYTE as u64;
            file.write_all_at(&bytes, at).expect("a write");
            file.sync_data().expect("a sync");
        });
    });
    group.finish();
}

fn every(criterion: &mut Criterion) {
    let dir = directory();
    let mut group = criterion.benchmark_group("every_100ms");
    let wal = open(dir.path(), EVERY);
    let mut shard = 0;
    for (name, size) in [
        ("100B", 100),
        ("16KiB", 16 << 10),
        ("64KiB", 60_000),
        ("1MiB", MEBIBYTE),
    ] {
        shard += 1;
        let mut appenders = [Appender::new(&wal, shard, size)];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("append_{name}_one_in_flight"), |bencher| {
            bencher.iter_custom(|count| pump(&mut appenders, 1, count));
        });
    }
    let mut appenders = [Appender::new(&wal, shard + 1, MEBIBYTE)];
    group.throughput(Throughput::Bytes(MEBIBYTE as u64));
    group.bench_function("append_1MiB_four_in_flight", |bencher| {
        bencher.iter_custom(|count| pump(&mut appenders, 4, count));
    });
    // The limit: the same bytes into pages that are there, over the same span.
    let file = RealDisk.create(&dir.path().join("raw")).expect("a file");
    let bytes = vec![1; MEBIBYTE];
    for number in 0..128 {
        file.write_all_at(&bytes, number << 20).expect("a write");
    }
    file.sync_data().expect("a sync");
    let mut at = 0;
    group.bench_function("raw_1MiB_overwrite", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % 128;
            let slice = IoSlice::new(black_box(&bytes));
            file.write_at(&mut [slice], at << 20).expect("a write");
        });
    });
    // The same, while another thread syncs as often as the WAL does: what is sustained.
    let stop = Arc::new(AtomicBool::new(false));
    let syncer = {
        let (file, stop) = (Arc::clone(&file), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
                file.sync_data().expect("a sync");
            }
        })
    };
    group.bench_function("raw_1MiB_overwrite_synced_every_100ms", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % 128;
            let slice = IoSlice::new(black_box(&bytes));
            file.write_at(&mut [slice], at << 20).expect("a write");
        });
    });
    stop.store(true, Ordering::Relaxed);
    syncer.join().expect("the syncing thread ends");
    group.finish();
}

/// Fills a WAL of 512 MiB, and opens it again and again.
fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    for (name, size) in [("1KiB", 1 << 10), ("64KiB", 64 << 10)] {
        let dir = directory();
        let wal = open(dir.path(), EVERY);
        let log = wal.shard(ShardId(1));
        let payload = Bytes::from(vec![0x5a; size]);
        let mut index = 0;
        while let Ok(reservation) = wal.reserve(size as u64) {
            let entry = WalEntry {
                term: 1,
                index,
                payload: vec![payload.clone()],
            };
            log.append(vec![entry], move |_| drop(reservation));
            index += 1;
        }
        wal.sync().expect("it syncs");
        let bytes = wal.usage().bytes;
        wal.shutdown().expect("it shuts down");
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(format!("open_full_wal_{name}"), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let start = Instant::now();
                    let wal = open(dir.path(), EVERY);
                    spent += start.elapsed();
                    wal.shutdown().expect("it shuts down");
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, always, every, recovery);
criterion_main!(benches);
