//! What a partition log makes of the disk: appended and flushed, and read back from the page
//! cache, each next to the bare system calls in the same run. The figures of one run can be
//! compared with each other, those of two machines cannot.
//!
//! `cargo bench -p flumen-broker --bench log`
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    io::IoSlice,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flumen_broker::{
    disk::{Disk, RealDisk},
    log::{
        FlushMode, LogCheckpoint, LogOptions, LogStore, LogStoreOptions, PartitionLog, ReadOutcome,
    },
};
use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    ids::{Offset, PartitionId, TopicId},
};

/// Bytes written and read per round.
const ROUND_BYTES: u64 = 128 * 1024 * 1024;

/// Bytes of a record's value.
const VALUE_BYTES: usize = 1024;

/// Bytes that a reader asks for at a time.
const READ_BYTES: usize = 1024 * 1024;

/// Rounds that the ratio is taken over.
const RATIO_ROUNDS: usize = 9;

const PARTITION: PartitionId = PartitionId {
    topic: TopicId(1),
    index: 0,
};

fn store(dir: &Path) -> LogStore {
    let options = LogStoreOptions {
        flush_mode: FlushMode::Manual,
        tail_bytes_max: 0,
        ..LogStoreOptions::default()
    };
    LogStore::open(RealDisk::shared(), dir, options).unwrap()
}

fn open(store: &LogStore) -> PartitionLog {
    let checkpoint = LogCheckpoint::default();
    store
        .open_partition(PARTITION, LogOptions::default(), &checkpoint)
        .unwrap()
}

/// A batch of about `bytes`.
fn sample(bytes: usize) -> Batch {
    let mut builder = BatchBuilder::with_capacity(bytes);
    let value = vec![7; VALUE_BYTES];
    while builder.encoded_len() + VALUE_BYTES < bytes {
        builder.push(&RecordRef::new(0, &value)).unwrap();
    }
    builder.build(Codec::None).unwrap()
}

/// Appends a round and flushes it every few MiB, as the flusher does.
fn append_round(log: &PartitionLog, sample: &Batch) {
    let mut bytes = 0;
    let mut unflushed = 0;
    while bytes < ROUND_BYTES {
        let end = log.reader().end_offset();
        log.append(sample.clone().placed(end, 0));
        bytes += sample.encoded_len() as u64;
        unflushed += sample.encoded_len();
        if unflushed >= 4 * 1024 * 1024 {
            log.flush().unwrap();
            unflushed = 0;
        }
    }
    log.flush().unwrap();
}

fn time_log_writes(dir: &Path, sample: &Batch) -> Duration {
    let store = store(&dir.join("log"));
    let log = open(&store);
    let start = Instant::now();
    append_round(&log, sample);
    let elapsed = start.elapsed();
    store.remove(PARTITION);
    elapsed
}

fn time_raw_writes(dir: &Path) -> Duration {
    let disk = RealDisk;
    let path = dir.join("raw");
    let piece = vec![7_u8; 4 * 1024 * 1024];
    let start = Instant::now();
    let file = disk.create(&path).unwrap();
    for at in (0..ROUND_BYTES).step_by(piece.len()) {
        file.write_at(&mut [IoSlice::new(&piece)], at).unwrap();
    }
    let elapsed = start.elapsed();
    drop(file);
    disk.remove_file(&path).unwrap();
    elapsed
}

fn time_log_reads(log: &PartitionLog) -> Duration {
    let reader = log.reader();
    let end = reader.end_offset();
    let mut offset = Offset(0);
    let start = Instant::now();
    while offset < end {
        let ReadOutcome::Disk(read) = reader.read(offset, READ_BYTES, end) else {
            panic!("the tail is empty");
        };
        offset = read.run().unwrap().last().unwrap().end_offset();
    }
    start.elapsed()
}

fn time_raw_reads(dir: &Path, bytes: u64) -> Duration {
    let file = RealDisk.open(&dir.join("raw")).unwrap();
    let start = Instant::now();
    for at in (0..bytes).step_by(READ_BYTES) {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        file.read_onto(&mut buffer, READ_BYTES, at).unwrap();
        std::hint::black_box(&buffer);
    }
    start.elapsed()
}

/// Prints how much of the bare speed is left, as the median of alternating rounds.
fn print_ratio(what: &str, mut bare: impl FnMut() -> Duration, mut log: impl FnMut() -> Duration) {
    let mut ratios: Vec<f64> = (0..RATIO_ROUNDS)
        .map(|_| bare().as_secs_f64() / log().as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("{what}: {:.2} of the bare speed", ratios[RATIO_ROUNDS / 2]);
}

fn writes(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut group = criterion.benchmark_group("log write");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(ROUND_BYTES));
    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| time_raw_writes(dir.path())).sum());
    });
    for batch_bytes in [16 * 1024, 1024 * 1024] {
        let sample = sample(batch_bytes);
        let name = format!("batches of {} KiB", batch_bytes / 1024);
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|rounds| {
                let rounds = 0..rounds;
                rounds.map(|_| time_log_writes(dir.path(), &sample)).sum()
            });
        });
        print_ratio(
            &format!("log write, {name}"),
            || time_raw_writes(dir.path()),
            || time_log_writes(dir.path(), &sample),
        );
    }
}

fn reads(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut group = criterion.benchmark_group("log read");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(ROUND_BYTES));
    let raw = RealDisk.create(&dir.path().join("raw")).unwrap();
    raw.write_all_at(&vec![7; ROUND_BYTES as usize], 0).unwrap();
    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|rounds| {
            let rounds = 0..rounds;
            rounds
                .map(|_| time_raw_reads(dir.path(), ROUND_BYTES))
                .sum()
        });
    });
    for batch_bytes in [16 * 1024, 256 * 1024] {
        let store = store(&dir.path().join("log"));
        let log = open(&store);
        append_round(&log, &sample(batch_bytes));
        let name = format!("batches of {} KiB", batch_bytes / 1024);
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| time_log_reads(&log)).sum());
        });
        print_ratio(
            &format!("log read, {name}"),
            || time_raw_reads(dir.path(), ROUND_BYTES),
            || time_log_reads(&log),
        );
        store.remove(PARTITION);
    }
}

/// What an append costs on the thread that applies entries.
fn appends(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = store(&dir.path().join("log"));
    let log = Arc::new(open(&store));
    let sample = sample(4096);
    criterion.bench_function("log append, one batch", |bencher| {
        bencher.iter_custom(|count| {
            let mut elapsed = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let now = left.min(10_000);
                let start = Instant::now();
                for _ in 0..now {
                    let end = log.reader().end_offset();
                    log.append(sample.clone().placed(end, 0));
                }
                elapsed += start.elapsed();
                log.flush().unwrap();
                left -= now;
            }
            elapsed
        });
    });
    store.remove(PARTITION);
}

criterion_group!(benches, appends, writes, reads);
criterion_main!(benches);
