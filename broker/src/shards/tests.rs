//! The shards as their users see them.

use std::sync::Arc;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, ProducerSequence, RecordRef},
    ids::{Offset, PartitionId, ProducerId, TopicId},
    topic::TopicConfig,
};

use super::*;
use crate::{
    disk::SimulatedDisk,
    log::{LogStoreOptions, ReadOutcome},
    shard::{AppendError, Appended, PartitionReader},
    wal::WalOptions,
};

mod behind;
mod cluster;
mod consume;
mod crash;
mod duplicates;
mod lost_files;
mod opening;
mod scale;
mod space;
mod upkeep;

pub(crate) const TOPIC: TopicId = TopicId(7);

pub(crate) fn partition(index: u32) -> PartitionId {
    PartitionId {
        topic: TOPIC,
        index,
    }
}

pub(crate) fn batch(values: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(&RecordRef::new(1, value)).unwrap();
    }
    builder.build(Codec::None).unwrap()
}

pub(crate) fn sequenced(value: &[u8], producer: u64, epoch: u32, sequence: u64) -> Batch {
    batch(&[value]).sequenced(ProducerSequence {
        producer_id: ProducerId(producer),
        epoch,
        sequence,
    })
}

/// A broker's storage on a simulated disk.
pub(crate) struct Broker {
    pub(crate) shards: Shards,
    wal: Wal,
    logs: LogStore,
}

impl Broker {
    pub(crate) async fn start(disk: &Arc<SimulatedDisk>, shard_count: u32) -> Self {
        Self::start_with(disk, shard_count, |_, _| {}).await
    }

    pub(crate) async fn start_with(
        disk: &Arc<SimulatedDisk>,
        shard_count: u32,
        adjust: impl FnOnce(&mut ShardsOptions, &mut WalOptions),
    ) -> Self {
        let started = Self::try_start(disk, shard_count, adjust).await;
        started.unwrap()
    }

    pub(crate) async fn try_start(
        disk: &Arc<SimulatedDisk>,
        shard_count: u32,
        adjust: impl FnOnce(&mut ShardsOptions, &mut WalOptions),
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Self::try_start_in(disk, shard_count, adjust, None).await
    }

    /// As one of a cluster, if there is one.
    pub(super) async fn try_start_in(
        disk: &Arc<SimulatedDisk>,
        shard_count: u32,
        adjust: impl FnOnce(&mut ShardsOptions, &mut WalOptions),
        cluster: Option<Cluster>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut options = ShardsOptions {
            shard_count,
            ..ShardsOptions::new("/shards")
        };
        let mut wal_options = WalOptions {
            segment_bytes: 1 << 20,
            bytes_max: 16 << 20,
            ..WalOptions::new("/wal")
        };
        adjust(&mut options, &mut wal_options);
        let disk = Arc::clone(disk) as Arc<dyn Disk>;
        let wal = Wal::open(Arc::clone(&disk), wal_options, Arc::new(()))?;
        let logs = LogStore::open(Arc::clone(&disk), "/logs", LogStoreOptions::default())?;
        let mut parts = ShardsParts::alone(disk, wal.clone(), logs.clone());
        if let Some(cluster) = cluster {
            parts.cluster = cluster;
        }
        let shards = Shards::open(options, parts).await?;
        let broker = Self { shards, wal, logs };
        if let Err(error) = broker.shards.ready().await {
            broker.kill().await;
            return Err(error.into());
        }
        Ok(broker)
    }

    /// Ends everything at once, as if the process had been killed: no checkpoint is taken, and
    /// what is on its way stays unfinished.
    pub(crate) async fn kill(self) {
        self.shards.kill().await;
        self.logs.shutdown();
        drop(self.wal.shutdown());
    }

    pub(crate) async fn stop(self) {
        self.shards.shutdown().await;
        self.logs.shutdown();
        self.wal.shutdown().unwrap();
    }
}

pub(crate) fn read_all(reader: &PartitionReader) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut offset = reader.start_offset();
    loop {
        let more = match reader.read(offset, 1 << 20) {
            ReadOutcome::Memory(more) => more,
            ReadOutcome::Disk(read) => read.run().unwrap(),
            ReadOutcome::End => return batches,
            other => panic!("{other:?}"),
        };
        offset = more.last().unwrap().end_offset();
        batches.extend(more);
    }
}

pub(crate) fn values(reader: &PartitionReader) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for batch in read_all(reader) {
        let columns = batch.columns().unwrap();
        for at in 0..batch.record_count() {
            values.push(columns.record(at as usize).value.unwrap().to_vec());
        }
    }
    values
}

#[tokio::test]
async fn appended_batches_get_their_offsets_and_can_be_read() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 2).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    shard
        .create_partitions(TOPIC, vec![0], &TopicConfig::default())
        .await
        .unwrap();
    let first = shard
        .append(partition(0), batch(&[b"a", b"b"]))
        .await
        .unwrap();
    assert_eq!(first.base_offset, Some(Offset(0)));
    assert_eq!(first.stored, Some(2));
    assert!(!first.duplicate);
    let second = shard.append(partition(0), batch(&[b"c"])).await.unwrap();
    assert_eq!(second.base_offset, Some(Offset(2)));
    let reader = shard.reader(partition(0)).unwrap();
    assert_eq!(reader.end_offset(), Offset(3));
    assert_eq!(values(&reader), [b"a", b"b", b"c"]);
    let unknown = shard.append(partition(9), batch(&[b"x"])).await;
    assert_eq!(unknown, Err(AppendError::UnknownPartition(partition(9))));
    broker.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let disk = Arc::new(SimulatedDisk::new());
    for round in 0..4 {
        let broker = Broker::start(&disk, 2).await;
        let shard = broker.shards.data_of(partition(0)).unwrap();
        shard
            .create_partitions(TOPIC, vec![0], &TopicConfig::default())
            .await
            .unwrap();
        let reader = shard.reader(partition(0)).unwrap();
        assert_eq!(reader.end_offset(), Offset(round * 2));
        for at in 0..2 {
            let value = (round * 2 + at).to_be_bytes();
            let appended = shard.append(partition(0), batch(&[&value])).await.unwrap();
            assert_eq!(appended.base_offset, Some(Offset(round * 2 + at)));
        }
        let expected: Vec<_> = (0..(round + 1) * 2)
            .map(|n| n.to_be_bytes().to_vec())
            .collect();
        assert_eq!(values(&reader), expected);
        if round % 2 == 0 {
            broker.stop().await;
        } else {
            broker.kill().await;
        }
    }
}
