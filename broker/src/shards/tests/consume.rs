//! What consumers are given of partitions with gaps.

use flumen_protocol::{error::ErrorCode, message::StartAt, topic::Cleanup};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{clock::now_ms, log::SEGMENT_AGE_MS_MAX, topics::Topics};

/// A record with a key that is deleted at once.
fn deleted(key: &[u8]) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in [Some(&b"value"[..]), None] {
        let record = RecordRef {
            key: Some(key),
            value,
            ..RecordRef::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build(Codec::None).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_waits_behind_last_records_that_compaction_has_removed() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 1).await;
    let topics = |broker: &Broker| {
        let shards = broker.shards.clone();
        Topics::new(shards.catalog().clone(), shards)
    };
    let name: flumen_protocol::topic::TopicName = "events".parse().unwrap();
    let config = TopicConfig {
        cleanup: Cleanup::Compact,
        ..TopicConfig::default()
    };
    topics(&broker).create(name.clone(), config).await.unwrap();
    let shard = broker.shards.all_data().remove(0);
    let partition = shard.partitions()[0];
    shard.append(partition, deleted(b"key")).await.unwrap();
    broker.shards.checkpoint().await.unwrap();
    let later = now_ms() + 2 * SEGMENT_AGE_MS_MAX;
    shard.look_after_logs(later, &CancellationToken::new());
    broker.stop().await;
    // What was in memory is gone.
    let broker = Broker::start(&disk, 1).await;
    let topics = topics(&broker);
    let source = topics.source(&name, None, 0, StartAt::Beginning);
    let mut source = source.await.unwrap();
    let end = source.fetch(1 << 20).await.unwrap();
    assert_eq!((end.batches, end.end_offset), (Vec::new(), Offset(2)));
    assert!(!source.has_more().unwrap(), "it would look again for ever");
    let shard = broker.shards.all_data().remove(0);
    shard.append(partition, batch(&[b"new"])).await.unwrap();
    assert!(source.has_more().unwrap());
    let new = source.fetch(1 << 20).await.unwrap();
    assert_eq!(new.batches[0].base_offset(), Offset(2));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_behind_is_not_passed_by_when_the_replica_is_closed() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 1).await;
    let shards = broker.shards.clone();
    let topics = Topics::new(shards.catalog().clone(), shards);
    let name: flumen_protocol::topic::TopicName = "events".parse().unwrap();
    let config = TopicConfig::default();
    topics.create(name.clone(), config).await.unwrap();
    let shard = broker.shards.all_data().remove(0);
    let partition = shard.partitions()[0];
    for value in [b"first", b"other"] {
        shard.append(partition, batch(&[value])).await.unwrap();
    }
    let source = topics.source(&name, None, 0, StartAt::Beginning);
    let mut source = source.await.unwrap();
    assert_eq!(source.fetch(1).await.unwrap().batches.len(), 1);
    assert_eq!(source.next_offset(), Offset(1));
    shard.close().await.unwrap();
    // It has nothing any more, and says so, and not that it ends there.
    for _ in 0..2 {
        let error = source.fetch(1 << 20).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotLeader, "{error}");
        assert_eq!(source.next_offset(), Offset(1));
    }
    broker.stop().await;
}
