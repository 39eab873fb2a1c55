//! What a consumer hears of offsets behind which nothing is left.

use flumen_protocol::{
    batch::{BatchBuilder, Codec, RecordRef},
    message::{ConsumeEvent, ConsumeOpen, PartitionStart, StartAt, StreamOpen},
    topic::Cleanup,
};
use tokio_util::sync::CancellationToken;

use super::{client::open, *};
use crate::{clock::now_ms, log::SEGMENT_AGE_MS_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_where_a_partition_goes_on_whose_last_records_compaction_has_removed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::bootstrap(config(dir.path())).await.unwrap();
    let topic: TopicName = "events".parse().unwrap();
    let compacted = TopicConfig {
        cleanup: Cleanup::Compact,
        ..TopicConfig::default()
    };
    let node = broker.node();
    node.topics.create(topic.clone(), compacted).await.unwrap();
    let mut builder = BatchBuilder::new();
    for value in [Some(&b"value"[..]), None] {
        let record = RecordRef {
            key: Some(b"key"),
            value,
            ..RecordRef::default()
        };
        builder.push(&record).unwrap();
    }
    let target = node.topics.target(&topic, 0).await.unwrap();
    let appended = target.append(builder.build(Codec::None).unwrap()).await;
    appended.unwrap().await.unwrap();
    node.shards.checkpoint().await.unwrap();
    let later = now_ms() + 2 * SEGMENT_AGE_MS_MAX;
    for shard in node.shards.all_data() {
        shard.look_after_logs(later, &CancellationToken::new());
    }
    broker.stop().await;
    // What was in memory is gone.
    let broker = start_again(dir.path()).await.unwrap();

    let connection = client::connect(&broker).await;
    let consume = StreamOpen::Consume(ConsumeOpen {
        topic,
        topic_id: None,
        partitions: vec![(0, StartAt::Beginning)],
    });
    let (_writer, mut reader) = open(&connection, consume).await;
    for start_offset in [0, 2] {
        let next = timeout(LONG, reader.next_with_payload::<ConsumeEvent>());
        let (event, _) = next.await.unwrap().unwrap().unwrap();
        let start = PartitionStart {
            partition: 0,
            start_offset: Offset(start_offset),
            end_offset: Some(Offset(2)),
        };
        assert_eq!(event, ConsumeEvent::Started(vec![start]));
    }
    drop(connection);
    broker.stop().await;
}
