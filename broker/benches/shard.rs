//! What an append through a shard takes: proposer, Raft, write-ahead log, state machine and
//! partition log, on the real disk. One at a time it is the latency, with many in flight what
//! batches share of an entry and a sync.
//!
//! `cargo bench -p flumen-broker --bench shard`. Set `FLUMEN_BENCH_DIR` to choose the file system;
//! the default is the target directory, since a temporary directory may be in memory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flumen_broker::{
    disk::RealDisk,
    log::{LogStore, LogStoreOptions},
    shards::{Shards, ShardsOptions, ShardsParts},
    wal::{SyncPolicy, Wal, WalOptions},
};
use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    ids::{PartitionId, TopicId},
    topic::TopicConfig,
};
use tokio::runtime::Runtime;

const EVERY: SyncPolicy = SyncPolicy::Every(Duration::from_millis(100));
const TOPIC: TopicId = TopicId(1);

/// Bytes of a batch's value.
const SIZES: [(&str, usize); 2] = [("100B", 100), ("16KiB", 16 * 1024)];

/// Shards that concurrent appends are spread over, and as many partitions.
const SHARD_COUNTS: [u32; 2] = [1, 16];

const IN_FLIGHT: usize = 256;

/// Bytes that a partition keeps, so that a long run does not fill the disk.
const RETENTION_BYTES: u64 = 128 * 1024 * 1024;

/// A broker's storage in a directory that is removed at the end.
struct Storage {
    runtime: Runtime,
    shards: Shards,
    wal: Wal,
    logs: LogStore,
    partitions: u32,
    _dir: tempfile::TempDir,
}

impl Storage {
    fn open(sync: SyncPolicy, shard_count: u32) -> Self {
        let parent = std::env::var_os("FLUMEN_BENCH_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let dir = tempfile::tempdir_in(parent).unwrap();
        let disk = RealDisk::shared();
        let wal = WalOptions {
            sync,
            ..WalOptions::new(dir.path().join("wal"))
        };
        let wal = Wal::open(disk.clone(), wal, std::sync::Arc::new(())).unwrap();
        let logs = LogStoreOptions::default();
        let logs = LogStore::open(disk.clone(), dir.path().join("logs"), logs).unwrap();
        let options = ShardsOptions {
            shard_count,
            retention_interval: Duration::from_secs(1),
            ..ShardsOptions::new(dir.path().join("shards"))
        };
        let runtime = Runtime::new().unwrap();
        let config = TopicConfig {
            segment_bytes: RETENTION_BYTES / 4,
            retention_bytes: Some(RETENTION_BYTES),
            ..TopicConfig::default()
        };
        let shards = runtime.block_on(async {
            let shards = Shards::open(options, ShardsParts::alone(disk, wal.clone(), logs.clone()));
            let shards = shards.await.unwrap();
            shards.ready().await.unwrap();
            for index in 0..shard_count {
                let shard = shards.data_of(partition(index)).unwrap();
                let create = shard.create_partitions(TOPIC, vec![index], &config);
                create.await.unwrap();
            }
            shards
        });
        Self {
            runtime,
            shards,
            wal,
            logs,
            partitions: shard_count,
            _dir: dir,
        }
    }

    /// Appends so many batches, `in_flight` at a time, to one partition after the other.
    fn append(&self, batch: &Batch, in_flight: usize, count: u64) -> Duration {
        self.runtime.block_on(async {
            let start = Instant::now();
            let mut pending = VecDeque::with_capacity(in_flight);
            for at in 0..count {
                if pending.len() == in_flight
                    && let Some(oldest) = pending.pop_front()
                {
                    let outcome: Result<_, _> = oldest.await;
                    outcome.unwrap();
                }
                let partition = partition((at % u64::from(self.partitions)) as u32);
                let shard = self.shards.data_of(partition).unwrap();
                let room = shard.make_room(batch.encoded_len()).await.unwrap();
                pending.push_back(room.append(partition, batch.clone()));
            }
            for append in pending {
                append.await.unwrap();
            }
            start.elapsed()
        })
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.runtime.block_on(self.shards.shutdown());
        self.logs.shutdown();
        self.wal.shutdown().unwrap();
    }
}

fn partition(index: u32) -> PartitionId {
    PartitionId {
        topic: TOPIC,
        index,
    }
}

fn sample(bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(&RecordRef::new(0, &vec![7; bytes])).unwrap();
    builder.build(Codec::None).unwrap()
}

fn bench(criterion: &mut Criterion, name: &str, sync: SyncPolicy) {
    let mut group = criterion.benchmark_group(name);
    for (size, bytes) in SIZES {
        let batch = sample(bytes);
        group.throughput(Throughput::Bytes(batch.encoded_len() as u64));
        let storage = Storage::open(sync, 1);
        group.bench_function(format!("append_{size}_single"), |bencher| {
            bencher.iter_custom(|count| storage.append(&batch, 1, count));
        });
        drop(storage);
        for shard_count in SHARD_COUNTS {
            let storage = Storage::open(sync, shard_count);
            let name = format!("append_{size}_{IN_FLIGHT}_in_flight_{shard_count}_shards");
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| storage.append(&batch, IN_FLIGHT, count));
            });
        }
    }
    group.finish();
}

fn always(criterion: &mut Criterion) {
    bench(criterion, "shard_always", SyncPolicy::Always);
}

fn every(criterion: &mut Criterion) {
    bench(criterion, "shard_every_100ms", EVERY);
}

criterion_group!(benches, always, every);
criterion_main!(benches);
