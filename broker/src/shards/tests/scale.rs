//! Many partitions, many waiters, and a broker with nothing to do.

use std::time::Instant;

use super::*;
use crate::shard::News;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_partitions_are_made_and_found_again() {
    const PARTITIONS: u32 = 10_000;
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 16).await;
    let started = Instant::now();
    let shards = broker.shards.all_data();
    let create = shards.iter().map(|shard| {
        let indexes = (0..PARTITIONS)
            .filter(|at| broker.shards.shard_of(partition(*at)) == shard.id())
            .collect();
        async move {
            let config = TopicConfig::default();
            shard.create_partitions(TOPIC, indexes, &config).await
        }
    });
    try_join_all(create).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    let count = |broker: &Broker| -> usize {
        let shards = broker.shards.all_data();
        shards.iter().map(|shard| shard.partitions().len()).sum()
    };
    assert_eq!(count(&broker), PARTITIONS as usize);

    let news = News::new();
    let subscriptions: Vec<_> = (0..PARTITIONS)
        .map(|at| {
            let reader = broker
                .shards
                .data_of(partition(at))
                .unwrap()
                .reader(partition(at));
            let subscription = reader.unwrap().subscribe(&news, at);
            assert!(!subscription.arm(Offset(0)));
            subscription
        })
        .collect();
    let shard = broker.shards.data_of(partition(77)).unwrap();
    shard.append(partition(77), batch(&[b"x"])).await.unwrap();
    assert_eq!(news.wait().await, [77]);
    assert!(subscriptions[77].arm(Offset(0)));
    assert!(!subscriptions[77].arm(Offset(1)));
    assert!(news.take().is_empty());

    broker.stop().await;
    let started = Instant::now();
    let broker = Broker::start(&disk, 16).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(count(&broker), PARTITIONS as usize);
    broker.kill().await;
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_each_append() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 1).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    shard
        .create_partitions(TOPIC, vec![0], &config)
        .await
        .unwrap();
    let reader = shard.reader(partition(0)).unwrap();
    let appender = tokio::spawn(async move {
        for at in 0..200u64 {
            shard
                .append(partition(0), batch(&[&at.to_be_bytes()]))
                .await
                .unwrap();
        }
    });
    let mut offset = Offset(0);
    while offset < Offset(200) {
        reader.changed(offset).await;
        match reader.read(offset, 1 << 20) {
            ReadOutcome::Memory(batches) => offset = batches.last().unwrap().end_offset(),
            other => panic!("{other:?}"),
        }
    }
    appender.await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn checkpoints_keep_the_write_ahead_log_small() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start_with(&disk, 1, |_, wal| {
        wal.segment_bytes = 1 << 20;
        wal.bytes_max = 8 << 20;
    })
    .await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    shard
        .create_partitions(TOPIC, vec![0], &config)
        .await
        .unwrap();
    // Many times what the WAL may hold.
    for _ in 0..1000 {
        shard
            .append(partition(0), batch(&[&vec![7; 100_000]]))
            .await
            .unwrap();
    }
    assert_eq!(
        shard.reader(partition(0)).unwrap().end_offset(),
        Offset(1000)
    );
    broker.stop().await;
}
